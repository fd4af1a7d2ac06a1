"""The REST API: reads the alert history, writes operators' commands."""
