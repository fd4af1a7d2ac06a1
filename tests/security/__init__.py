"""What stands between Tidewatch and people who mean it harm; see docs/threat-model.md."""
