"""For operators: parked events, the acts on them, and the record of each act."""
