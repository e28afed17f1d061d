-- The third step: the partitions' indexes become parts of the index of the whole, which is then valid.
-- depends: 0008b.moments_indexed

DO $$
DECLARE
    v_index text;
BEGIN
    FOR v_index IN
        SELECT partition.relname || '_occurred_at_idx'
        FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
        WHERE inhparent = 'orders.outbox'::regclass
    LOOP
        EXECUTE format('ALTER INDEX orders.outbox_occurred ATTACH PARTITION orders.%I', v_index);
    END LOOP;
END
$$;
