"""Runs sagas: admits and starts operations, sends commands, commits transitions, takes over from the dead."""
