-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'balances') <> 'balance_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA balances FROM balance_service;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA balances FROM PUBLIC, balance_service;

    GRANT SELECT, INSERT, UPDATE ON balances.accounts TO balance_service;
    GRANT SELECT, INSERT ON balances.entries TO balance_service; -- the ledger is append-only
    GRANT SELECT, INSERT, UPDATE, DELETE ON balances.gates TO balance_service;
    GRANT SELECT, INSERT, DELETE ON balances.outcomes TO balance_service;
    GRANT SELECT, UPDATE ON balances.horizon TO balance_service;
    GRANT SELECT ON balances.closed_slots TO balance_service;
    GRANT EXECUTE ON FUNCTION balances.first_id_after, balances.is_dated, balances.slot_in, balances.slot_of, balances.refuse_closed_slot
    TO balance_service;
END
$$;
