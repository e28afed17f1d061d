"""Traces: spans, which begin anywhere (spans.py), and their export with OpenTelemetry (recording.py)."""
