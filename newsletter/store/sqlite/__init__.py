"""Django's backend for SQLite, with a queue of those who want to write (base.py)."""
