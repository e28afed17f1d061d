-- All SQL of the balance service but that of gates and outcomes, which is in shared/participant/gates.sql.

-- name: ready
SELECT 1 FROM balances.accounts LIMIT 1;

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

-- name: debit_at_once
-- Debits for orders that are new here, in one statement and thus one round trip: $1 the orders by id; then a row per
-- debit: the order, the attempt, the new entry's id, the account, the amount, the sum of the account's amounts up to this
-- one, its place among them from 1, and of all of them the sum and the number.
-- An account's debits are taken if its balance covers their sum: then it covers each, whoever comes first. The others,
-- and all of them if an order is not new, are left: of these only the gates are written.
--
-- Nothing that happens meanwhile can break it. A gate that this statement inserted was nobody's: no outcome can be
-- stored for its order, and whoever else asks for it waits for our commit. One that another session is inserting is
-- waited for, and is then not new. An account that another session has locked is waited for, and then read and asked
-- again as that session left it: FOR UPDATE returns the newest row, while its lock keeps it so for the UPDATE, which
-- counts from the row that it finds.
-- A gate pruned after our snapshot could be taken for new: orders placed more than a day ago are left, for no horizon
-- is nearer than seven, and so is what the horizon that we see calls past, should a clock have put it nearer.
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
-- The page is found by order alone, so that it is read from the index and no further. Of an order that somebody paid
-- and somebody else was refunded for, the sum may be 0: it is looked at as well. The amounts are text: the JSON decoder
-- would round a sum past 64 bits.
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
WHERE a.balance IS NULL  -- entries of an account that is not there
   OR a.balance <> coalesce(e.total, 0) OR coalesce(e.entries, 0) <> coalesce(e.last_number, 0)
ORDER BY user_id LIMIT 20;

-- name: read_totals
SELECT coalesce(sum(amount), 0)::text AS accounts,
       coalesce(-sum(amount) FILTER (WHERE counter_account = 'funding'), 0)::text AS funding,
       coalesce(-sum(amount) FILTER (WHERE counter_account = 'sales'), 0)::text AS sales,
       (SELECT coalesce(sum(balance), 0) FROM balances.accounts)::text AS balances
FROM balances.entries;
