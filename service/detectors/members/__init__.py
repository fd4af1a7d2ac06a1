"""The detectors. Each scores windows; none of them decides."""
