"""What editors write: issues, stories, blocks; and what is collected for them."""
