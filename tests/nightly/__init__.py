"""Runs everything that takes long, one after the other."""
