"""Fires each alert once by a real fault: a real Prometheus scrapes really running services, with scaled windows."""
