"""Drills: one fault of a running platform each, with customers who buy meanwhile, and one row of a table.

`make drills` runs all of them and prints the table, `make drill-NAME` runs one. docs/drills.md has the last table.
"""
