"""The crash matrix: every step of every saga, struck at every point by every fault, on real Postgres."""
