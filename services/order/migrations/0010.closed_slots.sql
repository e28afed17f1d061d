-- Slots can move to another cell: what refuses new work for them here, and where the events of moved orders begin.
-- depends: 0009.oldest_of_all_shards

-- Slots that are moving to or from this cell, or have left it. While a slot is here, nothing new begins for its users.
-- deploy/slots writes it, and enables the triggers below for as long as it has a row. The default has none, so it pays
-- nothing for them.
CREATE TABLE orders.closed_slots (
    slot smallint PRIMARY KEY CHECK (slot BETWEEN 0 AND 4095),
    -- leaving: another cell gets its rows. gone: another cell has it. arriving, arrived: another cell has it still, and
    -- its rows are not here yet, or they are.
    state text NOT NULL CHECK (state IN ('leaving', 'gone', 'arriving', 'arrived')),
    -- The least id that contains a slot. The bits of earlier ids mean nothing.
    first_id uuid NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Orders that came from another cell, and the last sequence of their events when they came. These events are in the
-- outbox that the order left.
CREATE TABLE orders.arrivals (
    order_id uuid PRIMARY KEY,
    event_sequence bigint NOT NULL CHECK (event_sequence >= 0)
);

-- Reads a slot from an order's id: shared/slots.py:slot_in.
CREATE FUNCTION orders.slot_in(p_id uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (((get_byte(uuid_send(p_id), 6) & 15) << 8) + get_byte(uuid_send(p_id), 7))::smallint;

-- A user's slot: shared/slots.py:slot_of. CRC-32 by half bytes, because Postgres has no function for it before 18.
CREATE FUNCTION orders.slot_of(p_user_id text) RETURNS smallint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
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
CREATE FUNCTION orders.refuse_closed_slot(p_slot smallint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('slots.copying', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION 'slot % is closed: its users move to another cell, or have moved', p_slot
            USING ERRCODE = 'SLOTS';
    END IF;
END
$$;

CREATE FUNCTION orders.refuse_closed_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_slot CONSTANT smallint := orders.slot_in(NEW.order_id);
BEGIN
    IF EXISTS (SELECT FROM orders.closed_slots WHERE slot = v_slot AND first_id <= NEW.order_id) THEN
        PERFORM orders.refuse_closed_slot(v_slot);
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION orders.refuse_closed_user() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_slot CONSTANT smallint := orders.slot_of(NEW.user_id);
BEGIN
    IF EXISTS (SELECT FROM orders.closed_slots WHERE slot = v_slot) THEN
        PERFORM orders.refuse_closed_slot(v_slot);
    END IF;
    RETURN NEW;
END
$$;

-- Every operation on an order begins with a saga, and claims its key if it has one. So nothing else needs a trigger:
-- without a live saga, an order does not change. What has begun may end.
CREATE TRIGGER closed_slot BEFORE INSERT ON orders.idempotency_keys FOR EACH ROW EXECUTE FUNCTION orders.refuse_closed_user();
ALTER TABLE orders.idempotency_keys DISABLE TRIGGER closed_slot;
