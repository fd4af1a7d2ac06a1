"""Detectors score, calibration decides."""
