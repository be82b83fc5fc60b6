"""From an issue to its editions: Jinja2, MJML, our own CSS inlined, and the text part."""
