"""From verdicts to episodes, documents and messages."""
