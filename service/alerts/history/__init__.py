"""The alert history in Elasticsearch: what is written, and how it is read back."""
