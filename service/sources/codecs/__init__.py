"""One file for each format of metrics message."""
