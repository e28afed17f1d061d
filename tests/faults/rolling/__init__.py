"""Replicas of all services behind a balancer, and customers who repeat no call."""
