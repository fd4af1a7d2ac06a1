"""A real Kafka and a real Elasticsearch on this machine, installed by pip alone."""
