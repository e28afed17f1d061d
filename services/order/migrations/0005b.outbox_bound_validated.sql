-- The second step: validate the constraint. Then Postgres attaches the table as a partition without reading it.
-- depends: 0005.outbox_bound
-- statement_timeout: 6h

-- A separate migration, so that the locks of the previous and the next step are not held during the scan: checkouts and
-- relays continue, even if it takes long.
ALTER TABLE orders.outbox VALIDATE CONSTRAINT outbox_partition, VALIDATE CONSTRAINT outbox_status_check;
