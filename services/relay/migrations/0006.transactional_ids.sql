-- With which transactional id a shard's batches go out, since shards of a replica may go out together.
-- depends: 0003.bounded_claims

-- Noted before the first claim that goes out with it, and kept: whoever takes the shard over has to fence the one that
-- the batch under way went out with. Null as long as nothing was claimed since this column is there.
ALTER TABLE relay.shards ADD COLUMN transactional_id text;
