"""Runs sagas: admits and starts operations, sends commands, commits transitions, and takes over from dead processes."""
