"""Postgres: addresses, connections, sessions and pools, errors, clocks and migrations."""
