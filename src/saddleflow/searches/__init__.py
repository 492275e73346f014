"""Saddle-point searches; each sees the potential only through ``evaluate``."""
