-- All SQL of the product service except for gates and outcomes, which are in shared/participant/gates.sql.

-- name: create_product
INSERT INTO products.products (product_id, name, price, stock, put_in)
VALUES ($1, $2, $3, $4, $4)
RETURNING product_id, name, price, stock;

-- name: get_product
SELECT product_id, name, price, stock FROM products.products WHERE product_id = $1;

-- name: list_products
SELECT product_id, name, price, stock FROM products.products
WHERE product_id > $1 ORDER BY product_id LIMIT $2;

-- name: change_product
UPDATE products.products SET name = coalesce($2, name), price = coalesce($3, price)
WHERE product_id = $1
RETURNING product_id, name, price, stock;

-- name: lock_product
SELECT stock, put_in FROM products.products WHERE product_id = $1 FOR UPDATE;

-- name: move_stock
UPDATE products.products SET stock = stock + $2, put_in = put_in + $2
WHERE product_id = $1
RETURNING product_id, name, price, stock;

-- name: read_holds
SELECT order_id, product_id, quantity FROM products.holds
WHERE order_id = ANY ($1::uuid[]) AND status = 'HELD';

-- name: lock_stock
SELECT product_id, name, price, stock FROM products.products
WHERE product_id = ANY ($1::text[]) ORDER BY product_id FOR UPDATE;

-- name: write_holds
INSERT INTO products.holds (order_id, product_id, quantity, unit_price)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]);

-- name: write_restored
UPDATE products.holds SET status = 'RESTORED', restored_at = now()
WHERE order_id = ANY ($1::uuid[]) AND status = 'HELD';

-- name: write_stock
UPDATE products.products AS p SET stock = t.stock
FROM unnest($1::text[], $2::bigint[]) AS t (product_id, stock)
WHERE p.product_id = t.product_id;

-- name: hold_in_one_statement
-- Hold stock for orders that are new here, in one statement, one round trip. $1: the orders, sorted by id. Then a row
-- per line: the order, its number of lines, the product, the quantity, and the sum that all these orders want of it.
-- An order is applied if each of its products has enough for all these orders: so the sequence does not matter.
-- Other orders are left to the general path: only their gates are written. If one order is not new, all are left to it.
-- Why concurrent sessions cannot break it: docs/decisions/0022.
WITH opened AS (
    INSERT INTO products.gates (order_id)
    SELECT order_id FROM unnest($1::uuid[]) AS t (order_id) ORDER BY order_id
    ON CONFLICT DO NOTHING RETURNING order_id
), fitting AS MATERIALIZED (
    SELECT t.place, t.order_id, t.line_count, t.quantity, p.product_id, p.name, p.price
    FROM unnest($2::uuid[], $3::integer[], $4::text[], $5::bigint[], $6::bigint[])
         WITH ORDINALITY AS t (order_id, line_count, product_id, quantity, wanted, place)
    JOIN products.products AS p USING (product_id)
    WHERE p.stock >= t.wanted AND (SELECT count(*) FROM opened) = cardinality($1)
      AND $1[1] > (SELECT greatest(pruned_before, products.first_id_after(now() - interval '1 day'))
                   FROM products.horizon WHERE the_only)
    ORDER BY p.product_id FOR UPDATE OF p
), taken AS MATERIALIZED (
    SELECT * FROM (SELECT *, count(*) OVER (PARTITION BY order_id) AS fitting_count FROM fitting) AS t
    WHERE fitting_count = line_count
), written_outcomes AS (
    INSERT INTO products.outcomes (order_id, type, attempt, applied, body)
    SELECT order_id, 'hold_stock', 0, true, jsonb_build_object('lines', jsonb_agg(jsonb_build_object(
        'product_id', product_id, 'name', name, 'quantity', quantity, 'unit_price', price) ORDER BY place))
    FROM taken GROUP BY order_id
    RETURNING order_id, body
), written_holds AS (
    INSERT INTO products.holds (order_id, product_id, quantity, unit_price)
    SELECT order_id, product_id, quantity, price FROM taken
), written_stock AS (
    UPDATE products.products AS p SET stock = p.stock - t.units
    FROM (SELECT product_id, sum(quantity)::bigint AS units FROM taken GROUP BY product_id) AS t
    WHERE p.product_id = t.product_id
)
SELECT order_id, body FROM written_outcomes;

-- name: list_holds
SELECT order_id, jsonb_object_agg(product_id, quantity) AS holds FROM products.holds
WHERE order_id > $1 AND order_id <= $2 AND status = 'HELD'
GROUP BY order_id ORDER BY order_id LIMIT $3;

-- name: list_own_holds
-- Of up to $4 orders, return those of one cell, up to $3: $5 has a bit for each of its slots; $7 says whether it also has
-- the orders below $6, whose ids have no slot. The row without holds says up to which order this is complete.
WITH read AS MATERIALIZED (
    SELECT order_id FROM products.holds
    WHERE order_id > $1 AND order_id <= $2 AND status = 'HELD'
    GROUP BY order_id ORDER BY order_id LIMIT $4
), own AS MATERIALIZED (
    SELECT order_id FROM read
    WHERE CASE WHEN order_id < $6 THEN $7::boolean
               ELSE get_bit($5::bytea, (get_byte(uuid_send(order_id), 6) & 15) << 8 | get_byte(uuid_send(order_id), 7)) = 1
          END
    ORDER BY order_id LIMIT $3
)
(SELECT own.order_id, (SELECT jsonb_object_agg(product_id, quantity) FROM products.holds AS h
                       WHERE h.order_id = own.order_id AND h.status = 'HELD') AS holds
 FROM own ORDER BY own.order_id)
UNION ALL
SELECT coalesce((SELECT order_id FROM own ORDER BY order_id OFFSET $3 - 1 LIMIT 1),
                (SELECT order_id FROM read ORDER BY order_id OFFSET $4 - 1 LIMIT 1),
                'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), NULL;

-- name: check_stock
SELECT product_id, p.put_in, p.stock, coalesce(h.held, 0) AS held, count(*) OVER () AS violations
FROM products.products AS p
FULL JOIN (SELECT product_id, sum(quantity) AS held FROM products.holds WHERE status = 'HELD'
           GROUP BY product_id) AS h USING (product_id)
WHERE p.put_in IS NULL OR p.put_in <> p.stock + coalesce(h.held, 0)  -- NULL: held, but the product does not exist
ORDER BY product_id LIMIT 20;

-- name: read_totals
SELECT coalesce(sum(put_in), 0)::text AS put_in, coalesce(sum(stock), 0)::text AS stock,
       (SELECT coalesce(sum(quantity), 0) FROM products.holds WHERE status = 'HELD')::text AS held
FROM products.products;

-- Retention ----------------------------------------------------------------------------------------------------

-- name: delete_restored
DELETE FROM products.holds WHERE order_id = ANY ($1::uuid[]) AND status = 'RESTORED';
