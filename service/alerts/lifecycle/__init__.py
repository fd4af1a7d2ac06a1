"""The life of an alert: from windows to numbered transitions, and acknowledgements."""
