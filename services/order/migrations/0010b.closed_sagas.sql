-- The second step: what refuses a new saga of a closed slot.
-- depends: 0010.closed_slots

-- By itself, because starts lock keys before sagas, and transitions sagas before keys: whoever locks both in one
-- transaction waits for a session that waits for it.
CREATE OR REPLACE TRIGGER closed_slot BEFORE INSERT ON orders.sagas
    FOR EACH ROW EXECUTE FUNCTION orders.refuse_closed_order();
ALTER TABLE orders.sagas DISABLE TRIGGER closed_slot;
