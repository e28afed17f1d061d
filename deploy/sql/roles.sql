-- A role and a schema for each service, in the database that psql is connected to.
--
--   ORDER_SERVICE_PASSWORD=... PRODUCT_SERVICE_PASSWORD=... COUPON_SERVICE_PASSWORD=... \
--   BALANCE_SERVICE_PASSWORD=... RELAY_SERVICE_PASSWORD=... PLATFORM_CONSUMER_PASSWORD=... \
--   psql "$ADMIN_DATABASE_URL" --file deploy/sql/roles.sql
--
-- Run it as a superuser, or as a role with CREATEROLE and CREATE on the database, with psql 14 or newer, before the
-- services' migrations. You may repeat it at any time: it changes only what differs. If a password isn't given, it stays
-- unchanged (a new role then has no password, for authentication by certificate or cloud identity).
--
-- Each service owns its schema, and has no right to read another service's schema. The order service owns the outbox, so its
-- migrations grant the relay's rights on the outbox. The reference consumer (deploy/consumer) uses `platform_consumer`. A
-- separate consumer platform has its own database.

\set ON_ERROR_STOP on
\getenv order_password ORDER_SERVICE_PASSWORD
\getenv product_password PRODUCT_SERVICE_PASSWORD
\getenv coupon_password COUPON_SERVICE_PASSWORD
\getenv balance_password BALANCE_SERVICE_PASSWORD
\getenv relay_password RELAY_SERVICE_PASSWORD
\getenv consumer_password PLATFORM_CONSUMER_PASSWORD

BEGIN;
SET LOCAL client_min_messages = warning;

-- Two concurrent runs would both create the same role, because neither sees the other's uncommitted role.
SELECT pg_advisory_xact_lock(hashtext('deploy/sql/roles.sql')) \g /dev/null

DO $$
DECLARE
    service record;
    owner name;
    -- Since Postgres 16, a member may act as a role only if its membership has the SET option.
    act_as text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOR service IN
        SELECT * FROM (VALUES
            ('order_service', 'orders'),
            ('product_service', 'products'),
            ('coupon_service', 'coupons'),
            ('balance_service', 'balances'),
            ('relay_service', 'relay'),
            ('platform_consumer', 'platform')
        ) AS services (role_name, schema_name)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = service.role_name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', service.role_name);
        END IF;
        -- To give a role the ownership of a schema, the user must be able to act as that role. Superusers can; any other user
        -- becomes a member here.
        IF NOT pg_has_role(current_user, service.role_name, act_as) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', service.role_name);
        END IF;
        SELECT pg_get_userbyid(nspowner) INTO owner FROM pg_namespace WHERE nspname = service.schema_name;
        IF owner IS NULL THEN
            EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', service.schema_name, service.role_name);
        ELSIF owner <> service.role_name THEN
            -- The schema's tables belong to that role too. A person must decide whether to change their owner.
            RAISE EXCEPTION 'schema % belongs to %, not to %', service.schema_name, owner, service.role_name
                USING HINT = format('REASSIGN OWNED or ALTER ... OWNER TO %I, then run this again.', service.role_name);
        END IF;
    END LOOP;
END
$$;

\if :{?order_password}
ALTER ROLE order_service PASSWORD :'order_password';
\endif
\if :{?product_password}
ALTER ROLE product_service PASSWORD :'product_password';
\endif
\if :{?coupon_password}
ALTER ROLE coupon_service PASSWORD :'coupon_password';
\endif
\if :{?balance_password}
ALTER ROLE balance_service PASSWORD :'balance_password';
\endif
\if :{?relay_password}
ALTER ROLE relay_service PASSWORD :'relay_password';
\endif
\if :{?consumer_password}
ALTER ROLE platform_consumer PASSWORD :'consumer_password';
\endif

COMMIT;
