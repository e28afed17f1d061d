"""Everything that talks to Kafka: clients, topics, records, positions and the meaning of Kafka's errors."""
