"""HTTP as every service speaks it: strict input, one problem shape, health, metrics, OpenAPI and a bounded stop."""
