"""`make ha`, and the procedures of docs/failover.md against a real cluster."""
