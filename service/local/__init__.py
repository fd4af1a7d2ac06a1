"""A real Kafka and a real Elasticsearch on this machine, from pip alone."""
