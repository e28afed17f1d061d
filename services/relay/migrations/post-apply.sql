-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'relay') <> 'relay_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA relay FROM relay_service;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC, relay_service;

    GRANT SELECT, INSERT, UPDATE, DELETE ON relay.replicas TO relay_service;
    GRANT SELECT, INSERT, UPDATE ON relay.duties, relay.replays, relay.topics TO relay_service;
    GRANT SELECT, UPDATE ON relay.shards, relay.watermark TO relay_service;
    GRANT SELECT, INSERT ON relay.operator_acts TO relay_service; -- append-only: what operators have done
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO relay_service;
END
$$;
