"""What detectors see of a window: scaled values, statistics, whitening, and attribution to metrics."""
