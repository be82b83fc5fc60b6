"""What members see: sign-up, leaving, preferences, the archive. Django behind a thin door (door.py)."""
