"""A newsletter kept as files and sent without losing anyone."""

__version__ = "0.1.0"
