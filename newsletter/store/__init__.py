"""The database: who is on which list, what was promised to whom, and what became of every message.

Nothing here is imported before `newsletter.settings.configure` has told Django which database it is.
"""
