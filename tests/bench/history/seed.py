"""History for a catalogue: finished orders with all their rows in every schema, and balanced books.

Rows are made where they belong by one statement a table, in the order of time, as years of selling would have left
them. What they look like is held against rows of the product by the audit, and by a test against the plans.
"""

import psycopg

from tests.bench.checkout.catalogue import DISCOUNT, PRICE, PRODUCTS, USERS

DAYS = 80  # within the default retention, so nothing is pruned
COUPON_OF_TEN = 3  # of ten orders, as clients of the cold scenario do

# md5 stands for chance, the same each time. A bigint, for n is multiplied.
ID = """
CREATE FUNCTION pg_temp.id_of(moment timestamptz, mark text) RETURNS uuid LANGUAGE sql STABLE
RETURN (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(mark), 1, 3) || '8' || substr(md5(mark), 4, 15))::uuid
"""
# The data of every order, the same for all schemas.
PAST = f"""
CREATE TEMPORARY TABLE past AS
SELECT n, moment, pg_temp.id_of(moment, 'order ' || n) AS order_id, pg_temp.id_of(moment, 'saga ' || n) AS saga_id,
       'u-' || n % {USERS} AS user_id, 2 + n / {USERS} AS entry_number, 1 + n % 3 AS lines,
       CASE WHEN n % 10 < {COUPON_OF_TEN} THEN 'past-' || n END AS coupon_id,
       (1 + n % 3) * {PRICE} AS subtotal, CASE WHEN n % 10 < {COUPON_OF_TEN} THEN {DISCOUNT} ELSE 0 END AS discount
FROM (SELECT n, now() - interval '{DAYS} days' + n * interval '{DAYS} days' / $orders AS moment
      FROM generate_series(0::bigint, $orders - 1) AS n) AS numbers
"""
LINES = f"""
CREATE TEMPORARY TABLE past_lines AS
SELECT n, order_id, moment, 'p-' || 1 + (n * 7919 + line * 3001) % {PRODUCTS} AS product_id
FROM past, generate_series(1, past.lines) AS line
"""
JSON = f"""
CREATE TEMPORARY TABLE past_json AS
SELECT n, jsonb_agg(jsonb_build_object('product_id', product_id, 'name', 'Product ' || substr(product_id, 3),
                                       'quantity', 1, 'unit_price', {PRICE}) ORDER BY product_id) AS lines
FROM past_lines GROUP BY n
"""

TABLES = f"""
INSERT INTO orders.orders (order_id, user_id, status, lines, coupon_id, subtotal_amount, discount_amount, total_amount,
                           currency, payment_attempt, event_sequence, created_at, paid_at)
SELECT order_id, user_id, 'PAID', j.lines, coupon_id, subtotal, discount, subtotal - discount,
       'KRW', 1, 1, moment, moment
FROM past JOIN past_json AS j USING (n) ORDER BY n;

INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, attempt, owner, log, traceparent,
                          started_at, ended_at)
SELECT saga_id, order_id, 'place_now', 1, 'DONE', 1, gen_random_uuid(),
       (SELECT jsonb_agg(jsonb_build_object('at', moment, 'step', step, 'outcome', 'applied'))
        FROM unnest(ARRAY['hold_stock', 'redeem_coupon', 'debit']) AS step
        WHERE step <> 'redeem_coupon' OR coupon_id IS NOT NULL),
       '00-' || md5(n::text) || '-' || substr(md5(n::text), 1, 16) || '-01', moment, moment
FROM past ORDER BY n;

INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, traceparent, occurred_at, status, sent_at)
SELECT gen_random_uuid(), order_id, 1, 'order.paid.v1',
       convert_to(jsonb_build_object('order_id', order_id, 'user_id', user_id, 'status', 'PAID', 'lines', j.lines,
           'subtotal_amount', subtotal, 'discount_amount', discount, 'total_amount', subtotal - discount,
           'currency', 'KRW', 'created_at', moment, 'paid_at', moment)::text, 'UTF8'),
       '00-' || md5(n::text) || '-' || substr(md5(n::text), 1, 16) || '-01', moment, 'SENT', moment
FROM past JOIN past_json AS j USING (n) ORDER BY n;

INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id, status, body, location, created_at)
SELECT user_id, 'place', 'past-' || n, decode(md5(n::text) || md5(n::text), 'hex'), saga_id, 201,
       convert_to(j.lines::text, 'UTF8'), '/v1/orders/' || order_id, moment
FROM past JOIN past_json AS j USING (n) WHERE moment > now() - interval '23 hours' ORDER BY n;

INSERT INTO products.gates (order_id, opened_at) SELECT order_id, moment FROM past ORDER BY n;
INSERT INTO products.outcomes (order_id, type, attempt, applied, body, decided_at)
SELECT order_id, 'hold_stock', 0, true, jsonb_build_object('lines', j.lines), moment
FROM past JOIN past_json AS j USING (n) ORDER BY n;
INSERT INTO products.holds (order_id, product_id, quantity, unit_price, held_at)
SELECT order_id, product_id, 1, {PRICE}, moment FROM past_lines ORDER BY n, product_id;
UPDATE products.products AS p SET stock = stock - held.units
FROM (SELECT product_id, count(*) AS units FROM past_lines GROUP BY product_id) AS held
WHERE p.product_id = held.product_id;

INSERT INTO coupons.gates (order_id, opened_at)
SELECT order_id, moment FROM past WHERE coupon_id IS NOT NULL ORDER BY n;
INSERT INTO coupons.outcomes (order_id, type, attempt, applied, body, decided_at)
SELECT order_id, 'redeem_coupon', 0, true, jsonb_build_object('discount_amount', discount), moment
FROM past WHERE coupon_id IS NOT NULL ORDER BY n;
INSERT INTO coupons.coupons (coupon_id, user_id, kind, value, status, order_id, discount_amount, held_at, created_at)
SELECT coupon_id, user_id, 'fixed', {DISCOUNT}, 'REDEEMED', order_id, discount, moment, moment
FROM past WHERE coupon_id IS NOT NULL ORDER BY n;

INSERT INTO balances.gates (order_id, opened_at) SELECT order_id, moment FROM past ORDER BY n;
INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt,
                              balance_after, created_at)
SELECT user_id, entry_number, gen_random_uuid(), 'debit', discount - subtotal, 'sales', order_id, 1,
       a.balance + sum(discount - subtotal) OVER (PARTITION BY user_id ORDER BY entry_number), moment
FROM past JOIN balances.accounts AS a USING (user_id) ORDER BY n;
INSERT INTO balances.outcomes (order_id, type, attempt, applied, body, decided_at)
SELECT order_id, 'debit', 1, true, jsonb_build_object('balance', balance_after), created_at
FROM balances.entries WHERE kind = 'debit' ORDER BY order_id;
UPDATE balances.accounts AS a SET balance = balance + e.amount, entry_count = entry_count + e.entries
FROM (SELECT user_id, sum(amount) AS amount, count(*) AS entries FROM balances.entries WHERE kind = 'debit'
      GROUP BY user_id) AS e
WHERE a.user_id = e.user_id;
"""


def seed(url: str, orders: int) -> None:
    """Insert this many finished orders into a catalogue without orders, as a superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        # The rows are consistent, and a check of each reference would take longer than writing them.
        for setting in ("session_replication_role = replica", "synchronous_commit = off", "work_mem = '256MB'"):
            connection.execute(f"SET {setting}".encode())
        for statement in (ID, PAST.replace("$orders", str(orders)), LINES, JSON, "ANALYZE", *TABLES.split(";\n")):
            if statement.strip():
                connection.execute(statement.encode())
        connection.execute("VACUUM (ANALYZE, FREEZE)")
