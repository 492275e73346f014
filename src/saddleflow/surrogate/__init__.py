"""Gaussian-process surrogate of the potential energy surface."""
