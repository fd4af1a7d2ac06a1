"""The alert history in Elasticsearch: the documents, the store part that writes them, and the reader."""
