-- Find rows past their retention by the age in their ids, so that pruning needs no separate index.
-- depends: 0001.orders

-- Ids are UUIDv7 (RFC 9562): the first 48 bits are the milliseconds at which they were made.
CREATE FUNCTION orders.first_id_after(p_moment timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM p_moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
