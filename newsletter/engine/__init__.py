"""Who runs the duties."""
