-- How many partitions a topic has, so that all replicas agree on it.
-- depends: 0006.transactional_ids

-- An order's events move to another partition when partitions are added. Every replica notes the larger number here
-- before it uses it, and reads it after it has taken a shard's lease: so no later holder of a shard uses a smaller one,
-- and no order's events move back. Only an operator's bootstrap makes it smaller.
CREATE TABLE relay.topics (
    topic text PRIMARY KEY,
    partitions integer NOT NULL CHECK (partitions > 0),
    recorded_at timestamptz NOT NULL DEFAULT now()
);
