-- Drop foreign keys: written rows are no longer checked, one by one, against rows that the same transaction has locked.
-- depends: 0002.horizon

-- Each check is a query. Only a transaction that opened or locked the gate writes its outcomes, and they are
-- pruned with it.
-- squawk-ignore ban-drop-constraint
ALTER TABLE coupons.outcomes DROP CONSTRAINT outcomes_order_id_fkey;
