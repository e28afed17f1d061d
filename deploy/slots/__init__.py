"""Moves slots from one cell to another: a command for operators, over the cells' databases (docs/scaling.md)."""
