"""Publishes events again, into topics of their own."""
