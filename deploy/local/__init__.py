"""Runs the whole product on one machine, with an embedded database and broker: `make run`."""
