-- Drop foreign keys: written rows are no longer checked, one by one, against rows that the same transaction has locked.
-- depends: 0002.horizon

-- Each check is a query, together a fifth of a batch's cost for the server. Only a transaction that opened or locked
-- the gate writes its outcomes, and they are pruned with it; a row of holds is written from a locked row of products.
-- squawk-ignore ban-drop-constraint
ALTER TABLE products.outcomes DROP CONSTRAINT outcomes_order_id_fkey;
-- squawk-ignore ban-drop-constraint
ALTER TABLE products.holds DROP CONSTRAINT holds_product_id_fkey;

-- The key also prevented the deletion of a product with holds. No product is deleted, and the audit would find it.
CREATE FUNCTION products.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'products are never removed nor renamed: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE OR UPDATE OF product_id ON products.products
    FOR EACH STATEMENT EXECUTE FUNCTION products.refuse_removal();
