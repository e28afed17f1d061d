"""The server that all services share, and the gateway before it, spoken to in raw bytes."""
