-- The SQL of gates and stored outcomes, the same for every participant. {schema} stands for its schema, and {gate} for
-- the column with a gate's id.

-- name: open_gates
INSERT INTO {schema}.gates ({gate})
SELECT {gate} FROM unnest($1::uuid[]) AS t ({gate}) ORDER BY {gate}
ON CONFLICT DO NOTHING;

-- name: lock_gates
SELECT {gate} AS gate, closed, now() AS now,
       {gate} < (SELECT pruned_before FROM {schema}.horizon WHERE the_only) AND {schema}.is_dated({gate}) AS past
FROM {schema}.gates
WHERE {gate} = ANY ($1::uuid[]) ORDER BY {gate} FOR UPDATE;

-- name: read_outcomes
SELECT {gate} AS gate, type, attempt, applied, body FROM {schema}.outcomes WHERE {gate} = ANY ($1::uuid[]);

-- name: write_outcomes
INSERT INTO {schema}.outcomes ({gate}, type, attempt, applied, body)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::boolean[], $5::jsonb[]);

-- name: close_gates
UPDATE {schema}.gates SET closed = true WHERE {gate} = ANY ($1::uuid[]);

-- name: read_gate_outcomes
SELECT g.closed, o.type, o.attempt, o.applied, o.body, o.decided_at
FROM {schema}.gates AS g LEFT JOIN {schema}.outcomes AS o USING ({gate})
WHERE g.{gate} = $1 ORDER BY o.decided_at, o.type, o.attempt;

-- name: confirm_reads
-- Only the commit counts: shared/postgres/connections.py:confirmed. This lock waits for no update of the row, and no
-- update waits for it.
SELECT FROM {schema}.horizon WHERE the_only FOR KEY SHARE;

-- Retention ----------------------------------------------------------------------------------------------------

-- name: raise_horizon
UPDATE {schema}.horizon SET pruned_before = {schema}.first_id_after(now() - make_interval(days => $1))
WHERE the_only AND pruned_before < {schema}.first_id_after(now() - make_interval(days => $1));

-- name: lock_gates_to_prune
SELECT {gate} AS gate FROM {schema}.gates
WHERE {gate} > $1 AND {gate} < (SELECT pruned_before FROM {schema}.horizon WHERE the_only)
  AND {schema}.is_dated({gate})
ORDER BY {gate} LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: delete_outcomes
DELETE FROM {schema}.outcomes WHERE {gate} = ANY ($1::uuid[]);

-- name: delete_gates
DELETE FROM {schema}.gates WHERE {gate} = ANY ($1::uuid[]);
