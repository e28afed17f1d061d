-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'platform') <> 'platform_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA platform FROM platform_consumer;

    GRANT SELECT, INSERT, UPDATE ON platform.offsets, platform.streams, platform.sales, platform.dead_letters,
        platform.watermarks TO platform_consumer;
    GRANT SELECT, INSERT, DELETE ON platform.forged TO platform_consumer;
    GRANT SELECT, INSERT ON platform.restores TO platform_consumer;
    -- An order goes if all of its events were forged.
    GRANT SELECT, INSERT, UPDATE, DELETE ON platform.inbox, platform.orders, platform.buckets,
        platform.duties TO platform_consumer;
END
$$;
