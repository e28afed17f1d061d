-- The first of three steps that make the outbox a partitioned table: the bounds of its first partition.
-- depends: 0004.given_up_and_redacted

-- NOT VALID: the next migration checks the rows, without blocking other sessions.
ALTER TABLE orders.outbox ADD CONSTRAINT outbox_partition CHECK (outbox_id < 1099511627776) NOT VALID;
