"""What operators see and do: parked events, what becomes of them, and a record of each act."""
