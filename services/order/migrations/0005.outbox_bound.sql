-- The first of three steps that make the outbox a partitioned table: what its first partition may hold.
-- depends: 0004.given_up_and_redacted

-- NOT VALID: the next migration looks at the rows, without locking anybody out meanwhile.
ALTER TABLE orders.outbox ADD CONSTRAINT outbox_partition CHECK (outbox_id < 1099511627776) NOT VALID;
