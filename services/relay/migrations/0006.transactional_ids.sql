-- The transactional id of a shard's batches: several shards of a replica may be published with one id.
-- depends: 0003.bounded_claims

-- Recorded before the first claim that is published with it, and kept: the next take-over must fence the id that the
-- batch under way was published with. Null until the first claim after this column was added.
ALTER TABLE relay.shards ADD COLUMN transactional_id text;
