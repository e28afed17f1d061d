"""Dashboards for Grafana, written as code: `make dashboards` writes them as JSON."""
