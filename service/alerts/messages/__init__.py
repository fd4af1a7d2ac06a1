"""What a message says: its text, charts, templates and a sample. Nothing is sent here."""
