-- Drop foreign keys: written rows are no longer checked, one by one, against rows that the same transaction has locked.
-- depends: 0002.horizon

-- Each check is a query, together a fifth of a batch's cost for the server. Only a transaction that opened or locked
-- the gate writes its outcomes, and they are pruned with it; a row of entries is written from a locked row of accounts.
-- squawk-ignore ban-drop-constraint
ALTER TABLE balances.outcomes DROP CONSTRAINT outcomes_order_id_fkey;
-- squawk-ignore ban-drop-constraint
ALTER TABLE balances.entries DROP CONSTRAINT entries_user_id_fkey;

-- The key also prevented the deletion of an account with entries. No account is deleted, and the audit would find it.
CREATE FUNCTION balances.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'accounts are never removed nor renamed: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE OR UPDATE OF user_id ON balances.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION balances.refuse_removal();
