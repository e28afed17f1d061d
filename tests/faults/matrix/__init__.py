"""The crash matrix: every fault at every point of every step of every saga, on real Postgres."""
