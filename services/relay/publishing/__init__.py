"""Publishes the shards: assignment to replicas, take-over, and batches."""
