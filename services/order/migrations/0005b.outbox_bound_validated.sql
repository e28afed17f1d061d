-- The second step: Postgres takes a table for a partition without reading it, if its constraints are known to hold.
-- depends: 0005.outbox_bound

-- A migration of its own, so that neither the lock of the step before nor that of the next one is held meanwhile:
-- checkouts and relays go on, however long this takes.
ALTER TABLE orders.outbox VALIDATE CONSTRAINT outbox_partition, VALIDATE CONSTRAINT outbox_status_check;
