"""What careless and wicked producers send, and what becomes of it."""
