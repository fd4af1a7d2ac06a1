"""The REST API: reads the history, writes people's commands."""
