"""Transition-state searches for whole reaction sets with few electronic-structure calculations."""

__version__ = "0.1.0"
