"""Replaces the replicas of a service in compose, one at a time."""
