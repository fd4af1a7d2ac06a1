"""The records of the alerts and notifications topics, and how they are read."""
