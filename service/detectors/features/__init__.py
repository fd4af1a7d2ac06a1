"""What detectors read of a window: scaled values, statistics, whitening, and attribution to metrics."""
