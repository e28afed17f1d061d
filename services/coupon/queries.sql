-- All SQL of the coupon service but that of gates and outcomes, which is in shared/participant/gates.sql.

-- name: ready
SELECT 1 FROM coupons.coupons LIMIT 1;

-- name: create_coupon
INSERT INTO coupons.coupons (coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at;

-- name: get_coupon
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at
FROM coupons.coupons WHERE coupon_id = $1;

-- name: list_coupons
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at
FROM coupons.coupons WHERE coupon_id > $1 ORDER BY coupon_id LIMIT $2;

-- name: list_coupons_of_user
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at
FROM coupons.coupons WHERE user_id = $3 AND coupon_id > $1 ORDER BY coupon_id LIMIT $2;

-- name: list_coupons_by_status
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at
FROM coupons.coupons WHERE status = $3 AND coupon_id > $1 ORDER BY coupon_id LIMIT $2;

-- name: list_coupons_of_user_by_status
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount,
    created_at
FROM coupons.coupons WHERE user_id = $3 AND status = $4 AND coupon_id > $1 ORDER BY coupon_id LIMIT $2;

-- name: lock_gates
-- In the place of the query that participants share: coupons expire, so their batches need the time as well.
SELECT order_id, closed, now() AS moment,
       order_id < (SELECT pruned_before FROM coupons.horizon WHERE the_only) AND coupons.is_dated(order_id) AS past
FROM coupons.gates
WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR UPDATE;

-- name: lock_coupons
SELECT coupon_id, user_id, kind, value, max_discount, min_subtotal, expires_at, status, order_id, discount_amount
FROM coupons.coupons
WHERE coupon_id = ANY ($1::text[]) OR order_id = ANY ($2::uuid[])
ORDER BY coupon_id FOR UPDATE;

-- name: write_coupons
UPDATE coupons.coupons AS c
SET status = t.status, order_id = t.order_id, discount_amount = t.discount_amount,
    held_at = CASE WHEN t.order_id IS NULL THEN NULL WHEN t.order_id = c.order_id THEN c.held_at ELSE now() END
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) AS t (coupon_id, status, order_id, discount_amount)
WHERE c.coupon_id = t.coupon_id;

-- name: use_at_once
-- Reservations and redemptions for orders that are new here, each of another coupon, in one statement and thus one
-- round trip: $1 the orders by id; then a row per command: its type, what the coupon becomes, the order, the coupon, the
-- user, the subtotal. Taken are those whose coupon may be used. The others, and all of them if an order is not new, are
-- left: of these only the gates are written. An order that is new here has no coupon yet.
--
-- Nothing that happens meanwhile can break it. A gate that this statement inserted was nobody's: no outcome can be
-- stored for its order, and whoever else asks for it waits for our commit. One that another session is inserting is
-- waited for, and is then not new. A coupon that another session has locked is waited for, and then read and asked
-- again as that session left it: FOR UPDATE returns the newest row, and its lock keeps it so for the UPDATE.
-- A gate pruned after our snapshot could be taken for new: orders placed more than a day ago are left, for no horizon
-- is nearer than seven, and so is what the horizon that we see calls past, should a clock have put it nearer.
WITH opened AS (
    INSERT INTO coupons.gates (order_id)
    SELECT order_id FROM unnest($1::uuid[]) AS t (order_id) ORDER BY order_id
    ON CONFLICT DO NOTHING RETURNING order_id
), taken AS MATERIALIZED (
    SELECT t.type, t.status, t.order_id, c.coupon_id, least(
        CASE c.kind WHEN 'fixed' THEN c.value ELSE div(t.subtotal_amount::numeric * c.value, 100) END,
        c.max_discount, t.subtotal_amount)::bigint AS discount_amount
    FROM unnest($2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::bigint[])
         AS t (type, status, order_id, coupon_id, user_id, subtotal_amount)
    JOIN coupons.coupons AS c USING (coupon_id)
    -- No order has it: it is AVAILABLE. Asked by status, a plan made when there were few would walk through all of those.
    WHERE c.order_id IS NULL AND c.user_id = t.user_id AND t.subtotal_amount >= c.min_subtotal
      AND (c.expires_at IS NULL OR c.expires_at > now())
      AND (SELECT count(*) FROM opened) = cardinality($1)
      AND $1[1] > (SELECT greatest(pruned_before, coupons.first_id_after(now() - interval '1 day'))
                   FROM coupons.horizon WHERE the_only)
    ORDER BY c.coupon_id FOR UPDATE OF c
), written_outcomes AS (
    INSERT INTO coupons.outcomes (order_id, type, attempt, applied, body)
    SELECT order_id, type, 0, true, jsonb_build_object('discount_amount', discount_amount) FROM taken
), written_coupons AS (
    UPDATE coupons.coupons AS c
    SET status = t.status, order_id = t.order_id, discount_amount = t.discount_amount, held_at = now()
    FROM taken AS t WHERE c.coupon_id = t.coupon_id
)
SELECT order_id, discount_amount FROM taken;

-- name: list_holds
SELECT order_id, jsonb_build_object(coupon_id, status) AS holds FROM coupons.coupons
WHERE order_id > $1 AND order_id <= $2 ORDER BY order_id LIMIT $3;

-- name: check_coupons
SELECT c.coupon_id, c.order_id, c.status, count(*) OVER () AS violations
FROM coupons.coupons AS c JOIN coupons.gates AS g USING (order_id)
WHERE g.closed ORDER BY c.coupon_id LIMIT 20;

-- name: read_totals
SELECT count(*) FILTER (WHERE status = 'AVAILABLE')::text AS available,
       count(*) FILTER (WHERE status = 'RESERVED')::text AS reserved,
       count(*) FILTER (WHERE status = 'REDEEMED')::text AS redeemed
FROM coupons.coupons;
