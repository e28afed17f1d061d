"""What the services share: Postgres, HTTP, processes and the participant protocol, free of any domain."""
