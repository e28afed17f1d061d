"""A service for tests of processes; its variable SERVE names what it does."""
