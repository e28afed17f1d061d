"""A reference consumer of the order topic: what a platform that subscribes may copy. It knows docs/events.md only."""
