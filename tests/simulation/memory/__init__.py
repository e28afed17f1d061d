"""The four databases in memory: what their queries hold, and nothing that Python decides."""
