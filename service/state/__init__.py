"""State and results in Kafka: transactions, takeover of partitions, and the topics they use."""
