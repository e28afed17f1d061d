"""Postgres that survives the loss of a server: Patroni, etcd and HAProxy, as configuration and as `make ha`."""
