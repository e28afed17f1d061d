-- All SQL of the coupon service except for gates and outcomes, which are in shared/participant/gates.sql.

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

-- name: use_in_one_statement
-- Reserve or redeem for orders that are new here, each a different coupon, in one statement and one round trip. $1: the
-- orders, sorted by id. Then a row per command: its type, the coupon's new status, the order, the coupon, the user, the
-- subtotal. A command is applied if its coupon may be used. The others are left to the general path: only their gates
-- are written. If one order is not new, all are left to it. An order that is new here has no coupon yet.
-- Why concurrent sessions cannot break it: docs/decisions/0022.
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
    -- No order has it, so it is AVAILABLE. A filter by status could get a plan that scans all AVAILABLE coupons.
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
