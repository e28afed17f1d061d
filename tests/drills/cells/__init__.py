"""Kills each process of two cells and two product shards behind the router, while customers buy: `make drill-cells`."""
