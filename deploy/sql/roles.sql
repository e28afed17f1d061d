-- Roles, schemas and rights for all services, in the database that psql is connected to.
--
--   ORDER_MIGRATOR_PASSWORD=... ORDER_SERVICE_A_PASSWORD=... PRODUCT_MIGRATOR_PASSWORD=... (all names: below) \
--   psql "$ADMIN_DATABASE_URL" --file deploy/sql/roles.sql
--
-- Each service has these roles; here with the names of the order service:
--   order_owner                       owns the schema and all objects in it. Nobody can log in as this role.
--   order_migrator                    `migrate` logs in as this role. Its sessions act as the owner.
--   order_service                     has the rights that the running service needs
--   order_service_a, order_service_b  the service logs in as one of them. There are two, so that a password can be
--                                     changed while processes use the other one.
-- Roles for all services:
--   services_reader                   reads every table (people)
--   services_monitor                  reads the server's statistics, and no table (a metrics exporter)
--
-- Run it as a superuser, or as the database's owner with CREATEROLE, with psql 14 or newer, before the services'
-- migrations. You may repeat it at any time: it changes only what differs. Limits and timeouts that you have set for a
-- role stay. If a password isn't given, it stays unchanged (a new role then has no password, for authentication by
-- certificate or cloud identity).
--
-- The rights on tables and functions are granted by `migrate`, from services/<name>/migrations/post-apply.sql and
-- deploy/consumer/rights.sql. So a migration and the rights on what it creates arrive together.
--
-- Schemas that order_service and the others own, as before these roles existed, are taken over. Processes that are
-- logged in as order_service continue to work. docs/runbook.md describes the steps of such an upgrade.

\set ON_ERROR_STOP on
\set order_migrator '' \getenv order_migrator ORDER_MIGRATOR_PASSWORD
\set order_a '' \getenv order_a ORDER_SERVICE_A_PASSWORD
\set order_b '' \getenv order_b ORDER_SERVICE_B_PASSWORD
\set product_migrator '' \getenv product_migrator PRODUCT_MIGRATOR_PASSWORD
\set product_a '' \getenv product_a PRODUCT_SERVICE_A_PASSWORD
\set product_b '' \getenv product_b PRODUCT_SERVICE_B_PASSWORD
\set coupon_migrator '' \getenv coupon_migrator COUPON_MIGRATOR_PASSWORD
\set coupon_a '' \getenv coupon_a COUPON_SERVICE_A_PASSWORD
\set coupon_b '' \getenv coupon_b COUPON_SERVICE_B_PASSWORD
\set balance_migrator '' \getenv balance_migrator BALANCE_MIGRATOR_PASSWORD
\set balance_a '' \getenv balance_a BALANCE_SERVICE_A_PASSWORD
\set balance_b '' \getenv balance_b BALANCE_SERVICE_B_PASSWORD
\set relay_migrator '' \getenv relay_migrator RELAY_MIGRATOR_PASSWORD
\set relay_a '' \getenv relay_a RELAY_SERVICE_A_PASSWORD
\set relay_b '' \getenv relay_b RELAY_SERVICE_B_PASSWORD
\set platform_migrator '' \getenv platform_migrator PLATFORM_MIGRATOR_PASSWORD
\set platform_a '' \getenv platform_a PLATFORM_CONSUMER_A_PASSWORD
\set platform_b '' \getenv platform_b PLATFORM_CONSUMER_B_PASSWORD
\set reader '' \getenv reader SERVICES_READER_PASSWORD
\set monitor '' \getenv monitor SERVICES_MONITOR_PASSWORD

BEGIN;
SET LOCAL client_min_messages = warning;

-- Two concurrent runs would both create the same roles. The second run waits here for the end of the first one, because
-- both insert the same name. An advisory lock would do the same, but every role that can connect could hold it.
CREATE ROLE services_roles_are_being_changed;
DROP ROLE services_roles_are_being_changed;

-- Taking a schema over locks its tables. It is better to fail and run again than to block checkouts.
SET LOCAL lock_timeout = '2s';

CREATE TEMPORARY TABLE service ON COMMIT DROP AS
SELECT schema, runtime, prefix || '_owner' AS owner, prefix || '_migrator' AS migrator,
    -- Whether the schema is to be taken over from the role that only runs the service now.
    EXISTS (SELECT FROM pg_namespace WHERE nspname = schema AND pg_get_userbyid(nspowner) = runtime) AS taken_over
FROM (VALUES
    ('order', 'orders', 'order_service'),
    ('product', 'products', 'product_service'),
    ('coupon', 'coupons', 'coupon_service'),
    ('balance', 'balances', 'balance_service'),
    ('relay', 'relay', 'relay_service'),
    ('platform', 'platform', 'platform_consumer') -- the reference consumer, deploy/consumer
) AS services (prefix, schema, runtime);

-- A quarter of the server's connections: no single stolen login can take them all.
CREATE TEMPORARY TABLE login ON COMMIT DROP AS
SELECT runtime || suffix AS role, runtime AS member_of, current_setting('max_connections')::int / 4 AS connections,
    'INHERIT' AS inherits,
    -- The services themselves give up after 10 seconds, the relay's searches through a long outbox after 300.
    ARRAY[
        CASE WHEN schema = 'relay' THEN 'statement_timeout=330s' ELSE 'statement_timeout=60s' END,
        'lock_timeout=10s', 'idle_in_transaction_session_timeout=60s'
    ] AS settings
FROM service, unnest('{_a,_b}'::text[]) AS suffix
UNION ALL
SELECT migrator, owner, 10, 'NOINHERIT', ARRAY['lock_timeout=5s', 'role=' || owner] FROM service
UNION ALL
SELECT 'services_reader', NULL, 20, 'INHERIT',
    '{statement_timeout=60s,lock_timeout=5s,idle_in_transaction_session_timeout=60s,default_transaction_read_only=on}'
UNION ALL
SELECT 'services_monitor', NULL, 10, 'INHERIT',
    '{statement_timeout=10s,lock_timeout=1s,idle_in_transaction_session_timeout=10s,default_transaction_read_only=on}';

-- Roles --------------------------------------------------------------------------------------------------------------

SELECT format('CREATE ROLE %I NOLOGIN', role)
FROM (SELECT owner AS role FROM service UNION ALL SELECT runtime FROM service) AS roles
WHERE to_regrole(role) IS NULL
\gexec
SELECT format('CREATE ROLE %I LOGIN %s CONNECTION LIMIT %s', role, inherits, connections)
FROM login WHERE to_regrole(role) IS NULL
\gexec
SELECT format('GRANT %I TO %I', member_of, role) FROM login
WHERE NOT EXISTS (SELECT FROM pg_auth_members WHERE roleid = to_regrole(member_of) AND member = to_regrole(role))
    AND member_of IS NOT NULL
\gexec
SELECT format('ALTER ROLE %I SET %s = %L', role, split_part(setting, '=', 1), split_part(setting, '=', 2))
FROM (
    SELECT role, settings FROM login
    UNION ALL -- until nobody logs in as these any more
    SELECT runtime, settings FROM service JOIN login ON role = runtime || '_a'
) AS roles, unnest(settings) AS setting
WHERE NOT EXISTS (
    SELECT FROM pg_db_role_setting, unnest(setconfig) AS present
    WHERE setrole = to_regrole(role) AND setdatabase = 0 AND split_part(present, '=', 1) = split_part(setting, '=', 1)
)
\gexec
-- To give a role the ownership of a schema, the user must be able to act as that role. Superusers can; any other user
-- becomes a member here. Since Postgres 16, a membership needs the SET option for that.
SELECT format('GRANT %I TO CURRENT_USER', role)
FROM (SELECT owner AS role FROM service UNION ALL SELECT runtime FROM service WHERE taken_over) AS roles
WHERE NOT pg_has_role(
    current_user, role, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
)
\gexec
DO $$
BEGIN
    IF NOT pg_has_role('services_monitor', 'pg_monitor', 'MEMBER') THEN
        GRANT pg_monitor TO services_monitor;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'A superuser must run: GRANT pg_monitor TO services_monitor';
END
$$;

-- Ownership ----------------------------------------------------------------------------------------------------------

SELECT format('REASSIGN OWNED BY %I TO %I', runtime, owner) FROM service WHERE taken_over
\gexec
SELECT format('CREATE SCHEMA %I AUTHORIZATION %I', schema, owner) FROM service WHERE to_regnamespace(schema) IS NULL
\gexec
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT owned.name, owned.role, service.owner FROM service JOIN (
            SELECT nspname AS schema, 'schema ' || nspname AS name, pg_get_userbyid(nspowner) AS role FROM pg_namespace
            UNION ALL
            SELECT relnamespace::regnamespace::text, 'relation ' || oid::regclass, pg_get_userbyid(relowner)
            FROM pg_class
            UNION ALL
            SELECT pronamespace::regnamespace::text, 'function ' || oid::regprocedure, pg_get_userbyid(proowner)
            FROM pg_proc
        ) AS owned USING (schema)
        WHERE owned.role <> service.owner
    LOOP
        -- A person must decide whether to change the owner.
        RAISE EXCEPTION '% belongs to %, not to %', found.name, found.role, found.owner
            USING HINT = format('ALTER ... OWNER TO %I, or REASSIGN OWNED, then run this again.', found.owner);
    END LOOP;
END
$$;

-- Rights -------------------------------------------------------------------------------------------------------------

SELECT format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %s', current_database(), string_agg(role, ', '))
FROM (SELECT runtime AS role FROM service UNION ALL SELECT role FROM login) AS roles
\gexec
SELECT 'REVOKE ALL ON SCHEMA public FROM PUBLIC' WHERE to_regnamespace('public') IS NOT NULL \gexec
-- Postgres lets every role write large objects, and messages into the write-ahead log. With them, a role that may only
-- read could fill the disk.
DO $$
DECLARE
    command text := (
        SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', string_agg(pg_proc.oid::regprocedure::text, ', '))
        FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
        WHERE pronamespace = 'pg_catalog'::regnamespace AND grantee = 0 AND proname IN (
            'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_open', 'lo_put', 'lo_truncate', 'lo_truncate64',
            'lowrite', 'pg_logical_emit_message'
        )
        HAVING count(*) > 0
    );
BEGIN
    IF command IS NULL THEN
        RETURN;
    ELSIF current_setting('is_superuser')::boolean THEN
        EXECUTE command;
    ELSE
        RAISE WARNING 'A superuser must run: %', command;
    END IF;
END
$$;

SELECT format('GRANT USAGE ON SCHEMA %I TO %I, services_reader', schema, runtime) FROM service \gexec
SELECT format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO services_reader', schema) FROM service \gexec
-- Of what future migrations create.
SELECT format(
    'ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO services_reader', owner, schema
)
FROM service
\gexec
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC', owner) FROM service \gexec

-- Processes that run during the upgrade keep their rights on rows until `migrate` grants the exact ones.
SELECT format('GRANT SELECT, INSERT%s ON %s TO %I',
    CASE WHEN relname <> 'entries' THEN ', UPDATE, DELETE' END, -- the ledger is append-only
    pg_class.oid::regclass, runtime)
FROM service JOIN pg_class ON relnamespace = to_regnamespace(schema)
WHERE taken_over AND relkind IN ('r', 'p') AND NOT relispartition AND relname !~ 'yoyo'
\gexec
SELECT format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %I TO %I', schema, runtime) FROM service WHERE taken_over \gexec

-- Passwords ----------------------------------------------------------------------------------------------------------

SELECT format('ALTER ROLE %I PASSWORD %L', role, password) FROM (VALUES
    ('order_migrator', :'order_migrator'), ('order_service_a', :'order_a'), ('order_service_b', :'order_b'),
    ('product_migrator', :'product_migrator'), ('product_service_a', :'product_a'), ('product_service_b', :'product_b'),
    ('coupon_migrator', :'coupon_migrator'), ('coupon_service_a', :'coupon_a'), ('coupon_service_b', :'coupon_b'),
    ('balance_migrator', :'balance_migrator'), ('balance_service_a', :'balance_a'), ('balance_service_b', :'balance_b'),
    ('relay_migrator', :'relay_migrator'), ('relay_service_a', :'relay_a'), ('relay_service_b', :'relay_b'),
    ('platform_migrator', :'platform_migrator'), ('platform_consumer_a', :'platform_a'),
    ('platform_consumer_b', :'platform_b'), ('services_reader', :'reader'), ('services_monitor', :'monitor')
) AS given (role, password)
WHERE password <> ''
\gexec

-- Somebody else's grants, or too few rights of the user that runs this, would leave a door open.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
        WHERE datname = current_database() AND grantee = 0
        UNION ALL
        SELECT FROM pg_namespace, aclexplode(nspacl) WHERE nspname = 'public' AND grantee = 0
    ) THEN
        RAISE EXCEPTION 'PUBLIC still has rights on the database or on the schema public'
            USING HINT = 'Run this as a superuser, or as the owner of the database and of the schema public.';
    END IF;
END
$$;

COMMIT;
