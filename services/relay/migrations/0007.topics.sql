-- The number of partitions of each topic, so that all replicas use the same number.
-- depends: 0006.transactional_ids

-- When partitions are added, an order's events move to another partition. A replica records the larger number here
-- before it uses it, and reads the record after it has taken a shard's lease. So no later holder of a shard uses a
-- smaller number, and no order's events move back. Only an operator's bootstrap lowers the number.
CREATE TABLE relay.topics (
    topic text PRIMARY KEY,
    partitions integer NOT NULL CHECK (partitions > 0),
    recorded_at timestamptz NOT NULL DEFAULT now()
);
