"""Loses servers of a Postgres that fails over, while customers buy now and later: `make drill-failover`."""
