"""Split views: two primaries at once, with an order process on each, and sagas that both of them run."""
