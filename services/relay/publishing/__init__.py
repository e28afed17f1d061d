"""Publishes the shards: who has which shard, how one is taken over, and how its batches are published."""
