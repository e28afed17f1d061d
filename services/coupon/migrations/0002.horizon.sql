-- How far back gates are kept: what is older is pruned, and a do that comes as late is refused.
-- depends: 0001.coupons

-- Orders whose id is below it are past. It only rises, and it has risen, in a transaction before, when a gate is pruned;
-- a batch reads it after its gates are locked. So a do that misses what was pruned always sees that it has to be refused.
CREATE TABLE coupons.horizon (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    pruned_before uuid NOT NULL
);
INSERT INTO coupons.horizon (pruned_before) VALUES ('00000000-0000-0000-0000-000000000000');

-- Ids of orders are UUIDv7 (RFC 9562): the first 48 bits are the milliseconds at which they were made.
CREATE FUNCTION coupons.first_id_after(p_moment timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM p_moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Whether an id tells its age at all; of one that doesn't, nothing is ever pruned.
CREATE FUNCTION coupons.is_dated(p_order_id uuid) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN get_byte(uuid_send(p_order_id), 6) >> 4 = 7;
