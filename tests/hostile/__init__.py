"""Malformed and hostile records, and what the service makes of them."""
