"""What the services share: Postgres, HTTP, Kafka, processes and the participant protocol, without business rules."""
