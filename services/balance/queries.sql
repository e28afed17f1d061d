-- All SQL of the balance service except for gates and outcomes, which are in shared/participant/gates.sql.

-- name: open_account
INSERT INTO balances.accounts (user_id, balance, charged, entry_count) VALUES ($1, 0, 0, 0) ON CONFLICT DO NOTHING;

-- name: get_account
SELECT user_id, balance FROM balances.accounts WHERE user_id = $1;

-- name: get_charge
SELECT user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after, created_at
FROM balances.entries WHERE user_id = $1 AND idempotency_key = $2;

-- name: list_entries
SELECT user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after, created_at
FROM balances.entries WHERE user_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3;

-- name: read_paid
SELECT order_id, user_id, -sum(amount) AS amount FROM balances.entries
WHERE order_id = ANY ($1::uuid[]) GROUP BY order_id, user_id;

-- name: lock_accounts
SELECT user_id, balance, charged, entry_count FROM balances.accounts
WHERE user_id = ANY ($1::text[]) ORDER BY user_id FOR UPDATE;

-- name: write_accounts
UPDATE balances.accounts AS a SET balance = t.balance, charged = t.charged, entry_count = t.entry_count
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS t (user_id, balance, charged, entry_count)
WHERE a.user_id = t.user_id;

-- name: write_entries
INSERT INTO balances.entries
    (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after, idempotency_key)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::uuid[],
    $8::integer[], $9::bigint[], $10::text[])
RETURNING user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after, created_at;

-- name: debit_in_one_statement
-- Debit for orders that are new here, in one statement and one round trip. $1: the orders, sorted by id. Then a row per
-- debit: the order, the attempt, the new entry's id, the account, the amount, the running sum of the account's amounts,
-- the debit's place among them from 1, and the total sum and number of the account's debits.
-- An account's debits are applied if its balance covers their sum: so the sequence does not matter. The others are left
-- to the general path: only their gates are written. If one order is not new, all are left to it.
-- Why concurrent sessions cannot break it: docs/decisions/0022.
WITH opened AS (
    INSERT INTO balances.gates (order_id)
    SELECT order_id FROM unnest($1::uuid[]) AS t (order_id) ORDER BY order_id
    ON CONFLICT DO NOTHING RETURNING order_id
), taken AS MATERIALIZED (
    SELECT t.order_id, t.attempt, t.entry_id, a.user_id, t.amount, t.place, t.place_max, t.amount_up_to,
           a.entry_count + t.place AS number, a.balance - t.amount_up_to AS balance_after
    FROM unnest($2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::bigint[], $7::bigint[], $8::integer[],
                $9::bigint[], $10::integer[])
         AS t (order_id, attempt, entry_id, user_id, amount, amount_up_to, place, amount_sum, place_max)
    JOIN balances.accounts AS a USING (user_id)
    WHERE a.balance >= t.amount_sum AND (SELECT count(*) FROM opened) = cardinality($1)
      AND $1[1] > (SELECT greatest(pruned_before, balances.first_id_after(now() - interval '1 day'))
                   FROM balances.horizon WHERE the_only)
    ORDER BY a.user_id FOR UPDATE OF a
), written_outcomes AS (
    INSERT INTO balances.outcomes (order_id, type, attempt, applied, body)
    SELECT order_id, 'debit', attempt, true, jsonb_build_object('balance', balance_after) FROM taken
), written_entries AS (
    INSERT INTO balances.entries
        (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, balance_after)
    SELECT user_id, number, entry_id, 'debit', -amount, 'sales', order_id, attempt, balance_after FROM taken
), written_accounts AS (
    UPDATE balances.accounts AS a SET balance = a.balance - t.amount_up_to, entry_count = a.entry_count + t.place
    FROM taken AS t WHERE a.user_id = t.user_id AND t.place = t.place_max
)
SELECT order_id, balance_after FROM taken;

-- name: list_holds
-- The page is selected by order alone, so that only the index is read. If one user paid for an order and another got
-- the refund, the order's sum may be 0: such an order is returned too. The amounts are text, because the JSON decoder
-- would round a sum that exceeds 64 bits.
SELECT page.order_id, coalesce(held.holds, '{}') AS holds
FROM (
    SELECT order_id FROM balances.entries WHERE order_id > $1 AND order_id <= $2
    GROUP BY order_id HAVING sum(amount) <> 0 OR min(user_id) <> max(user_id)
    ORDER BY order_id LIMIT $3
) AS page CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(user_id, net_amount::text) AS holds FROM (
        SELECT user_id, -sum(amount) AS net_amount FROM balances.entries
        WHERE order_id = page.order_id GROUP BY user_id HAVING sum(amount) <> 0) AS net
) AS held
ORDER BY page.order_id;

-- name: check_accounts
SELECT user_id, a.balance, coalesce(e.total, 0) AS entries_total, count(*) OVER () AS violations
FROM balances.accounts AS a
FULL JOIN (SELECT user_id, sum(amount) AS total, count(*) AS entries, max(number) AS last_number
           FROM balances.entries GROUP BY user_id) AS e USING (user_id)
WHERE a.balance IS NULL  -- entries of a missing account
   OR a.balance <> coalesce(e.total, 0) OR coalesce(e.entries, 0) <> coalesce(e.last_number, 0)
ORDER BY user_id LIMIT 20;

-- name: read_totals
SELECT coalesce(sum(amount), 0)::text AS accounts,
       coalesce(-sum(amount) FILTER (WHERE counter_account = 'funding'), 0)::text AS funding,
       coalesce(-sum(amount) FILTER (WHERE counter_account = 'sales'), 0)::text AS sales,
       (SELECT coalesce(sum(balance), 0) FROM balances.accounts)::text AS balances
FROM balances.entries;
