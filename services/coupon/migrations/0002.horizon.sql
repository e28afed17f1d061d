-- How far back gates are kept: older ones are pruned, and a do for an order as old is refused.
-- depends: 0001.coupons

-- Orders whose id is below the horizon are past. The horizon only rises, in an earlier transaction than the pruning of
-- the gates below it. A batch reads it after locking its gates. So a do whose gate was pruned is always refused.
CREATE TABLE coupons.horizon (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    pruned_before uuid NOT NULL
);
INSERT INTO coupons.horizon (pruned_before) VALUES ('00000000-0000-0000-0000-000000000000');

-- Ids of orders are UUIDv7 (RFC 9562): the first 48 bits are the milliseconds at which they were made.
CREATE FUNCTION coupons.first_id_after(p_moment timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM p_moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Whether an id contains its age. Gates of ids without an age are never pruned.
CREATE FUNCTION coupons.is_dated(p_order_id uuid) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN get_byte(uuid_send(p_order_id), 6) >> 4 = 7;
