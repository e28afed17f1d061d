"""The figures of the last 15 minutes: what the replicas report, turned into rates, shares and delays."""
