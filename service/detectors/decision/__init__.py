"""From scores to decisions: calibration, the ensemble, the alert budget."""
