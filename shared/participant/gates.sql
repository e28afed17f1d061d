-- The SQL of gates and stored outcomes, the same in every participant's schema, whose name stands for {schema}.

-- name: open_gates
INSERT INTO {schema}.gates (order_id)
SELECT order_id FROM unnest($1::uuid[]) AS t (order_id) ORDER BY order_id
ON CONFLICT DO NOTHING;

-- name: lock_gates
SELECT order_id, closed,
       order_id < (SELECT pruned_before FROM {schema}.horizon WHERE the_only) AND {schema}.is_dated(order_id) AS past
FROM {schema}.gates
WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR UPDATE;

-- name: read_outcomes
SELECT order_id, type, attempt, applied, body FROM {schema}.outcomes WHERE order_id = ANY ($1::uuid[]);

-- name: write_outcomes
INSERT INTO {schema}.outcomes (order_id, type, attempt, applied, body)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::boolean[], $5::jsonb[]);

-- name: close_gates
UPDATE {schema}.gates SET closed = true WHERE order_id = ANY ($1::uuid[]);

-- name: read_gate_outcomes
SELECT g.closed, o.type, o.attempt, o.applied, o.body, o.decided_at
FROM {schema}.gates AS g LEFT JOIN {schema}.outcomes AS o USING (order_id)
WHERE g.order_id = $1 ORDER BY o.decided_at, o.type, o.attempt;

-- Retention ----------------------------------------------------------------------------------------------------

-- name: raise_horizon
UPDATE {schema}.horizon SET pruned_before = {schema}.first_id_after(now() - make_interval(days => $1))
WHERE the_only AND pruned_before < {schema}.first_id_after(now() - make_interval(days => $1));

-- name: lock_gates_to_prune
SELECT order_id FROM {schema}.gates
WHERE order_id > $1 AND order_id < (SELECT pruned_before FROM {schema}.horizon WHERE the_only)
  AND {schema}.is_dated(order_id)
ORDER BY order_id LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: delete_outcomes
DELETE FROM {schema}.outcomes WHERE order_id = ANY ($1::uuid[]);

-- name: delete_gates
DELETE FROM {schema}.gates WHERE order_id = ANY ($1::uuid[]);
