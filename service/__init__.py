"""Tidewatch: streaming anomaly detection for multivariate metrics, from Kafka to the person woken up."""
