"""One file per format of metrics message."""
