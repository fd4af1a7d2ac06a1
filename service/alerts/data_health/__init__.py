"""Alerts about the data itself: what is checked, and how a finding becomes an alert."""
