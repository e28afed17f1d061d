"""Proves the topic complete: the watermark, and digests of what was published."""
