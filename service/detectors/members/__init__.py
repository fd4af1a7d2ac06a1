"""The detectors. They score windows; what is anomalous is decided in ``decision/``."""
