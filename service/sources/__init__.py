"""Where records come from, and how bytes become samples."""
