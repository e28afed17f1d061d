-- Slots can move to another cell: what refuses new work for them here.
-- depends: 0003.no_key_checks

-- Slots that are moving to or from this cell, or have left it. While a slot is here, nothing new begins for its users.
-- deploy/slots writes it, and enables the triggers below for as long as it has a row. The default has none, so it pays
-- nothing for them.
CREATE TABLE balances.closed_slots (
    slot smallint PRIMARY KEY CHECK (slot BETWEEN 0 AND 4095),
    -- leaving: another cell gets its rows. gone: another cell has it. arriving, arrived: another cell has it still, and
    -- its rows are not here yet, or they are.
    state text NOT NULL CHECK (state IN ('leaving', 'gone', 'arriving', 'arrived')),
    -- The least id that contains a slot. The bits of earlier ids mean nothing.
    first_id uuid NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Reads a slot from an order's id: shared/slots.py:slot_in.
CREATE FUNCTION balances.slot_in(p_id uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (((get_byte(uuid_send(p_id), 6) & 15) << 8) + get_byte(uuid_send(p_id), 7))::smallint;

-- A user's slot: shared/slots.py:slot_of. CRC-32 by half bytes, because Postgres has no function for it before 18.
CREATE FUNCTION balances.slot_of(p_user_id text) RETURNS smallint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    v_table CONSTANT bigint[] := ARRAY[
        0, 498536548, 997073096, 651767980, 1994146192, 1802195444, 1303535960, 1342533948,
        3988292384, 4027552580, 3604390888, 3412177804, 2607071920, 2262029012, 2685067896, 3183342108
    ];
    v_bytes CONSTANT bytea := convert_to(p_user_id, 'UTF8');
    v_crc bigint := 4294967295;
BEGIN
    FOR v_at IN 0..octet_length(v_bytes) - 1 LOOP
        v_crc := v_crc # get_byte(v_bytes, v_at);
        v_crc := (v_crc >> 4) # v_table[(v_crc & 15) + 1];
        v_crc := (v_crc >> 4) # v_table[(v_crc & 15) + 1];
    END LOOP;
    RETURN (~v_crc & 4095)::smallint;
END
$$;

-- SLOTS: shared/postgres/errors.py makes it a 503. A transaction that copies a slot's rows says so.
CREATE FUNCTION balances.refuse_closed_slot(p_slot smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('slots.copying', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION 'slot % is closed: its users move to another cell, or have moved', p_slot
            USING ERRCODE = 'SLOTS';
    END IF;
END
$$;

CREATE FUNCTION balances.refuse_closed_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_slot CONSTANT smallint := balances.slot_in(NEW.order_id);
BEGIN
    IF EXISTS (SELECT FROM balances.closed_slots WHERE slot = v_slot AND first_id <= NEW.order_id) THEN
        PERFORM balances.refuse_closed_slot(v_slot);
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION balances.refuse_closed_user() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_slot CONSTANT smallint := balances.slot_of(NEW.user_id);
BEGIN
    IF EXISTS (SELECT FROM balances.closed_slots WHERE slot = v_slot) THEN
        PERFORM balances.refuse_closed_slot(v_slot);
    END IF;
    RETURN NEW;
END
$$;

-- Every command passes its order's gate, which it first tries to insert, and every charge tries to open its account.
CREATE TRIGGER closed_slot BEFORE INSERT ON balances.gates FOR EACH ROW EXECUTE FUNCTION balances.refuse_closed_order();
ALTER TABLE balances.gates DISABLE TRIGGER closed_slot;

-- The ledger is append-only, and accounts stay: except for the rows of a slot that another cell has.
CREATE FUNCTION balances.refuse_removal_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM balances.closed_slots
        WHERE slot = balances.slot_of(OLD.user_id) AND state IN ('gone', 'arriving', 'arrived')
    ) THEN
        RAISE EXCEPTION 'the ledger is append-only, and accounts are kept where their slot is: % of % refused',
            TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END
$$;

-- In the order in which commands lock the tables: otherwise this would wait for a session that waits for this.
DROP TRIGGER kept ON balances.accounts;
CREATE TRIGGER kept BEFORE TRUNCATE OR UPDATE OF user_id ON balances.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION balances.refuse_removal();
CREATE TRIGGER kept_here BEFORE DELETE ON balances.accounts
    FOR EACH ROW EXECUTE FUNCTION balances.refuse_removal_here();
CREATE TRIGGER closed_slot BEFORE INSERT ON balances.accounts FOR EACH ROW EXECUTE FUNCTION balances.refuse_closed_user();
ALTER TABLE balances.accounts DISABLE TRIGGER closed_slot;

DROP TRIGGER append_only ON balances.entries;
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON balances.entries
    FOR EACH STATEMENT EXECUTE FUNCTION balances.refuse_change();
CREATE TRIGGER kept_here BEFORE DELETE ON balances.entries
    FOR EACH ROW EXECUTE FUNCTION balances.refuse_removal_here();
