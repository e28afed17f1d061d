"""Sends raw bytes to the server that all services share, and to the gateway in front of it."""
