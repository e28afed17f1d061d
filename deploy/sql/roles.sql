-- A role and a schema for each service, in the database that psql is connected to.
--
--   ORDER_SERVICE_PASSWORD=... PRODUCT_SERVICE_PASSWORD=... COUPON_SERVICE_PASSWORD=... \
--   BALANCE_SERVICE_PASSWORD=... RELAY_SERVICE_PASSWORD=... PLATFORM_CONSUMER_PASSWORD=... \
--   psql "$ADMIN_DATABASE_URL" --file deploy/sql/roles.sql
--
-- Run it as a superuser, or as a role with CREATEROLE and CREATE on the database, with psql 14 or newer, before the
-- services' migrations. Run it as often as you like: it changes what differs and nothing else. A password that isn't given
-- is left as it is (a new role then has none, for authentication by certificate or cloud identity).
--
-- Each service owns its own schema and may not even look into another's; what the relay may do with the outbox
-- is granted by the order service's migrations, which own that table. `platform_consumer` is the reference consumer's
-- (deploy/consumer); a platform of its own brings its own database.

\set ON_ERROR_STOP on
\getenv order_password ORDER_SERVICE_PASSWORD
\getenv product_password PRODUCT_SERVICE_PASSWORD
\getenv coupon_password COUPON_SERVICE_PASSWORD
\getenv balance_password BALANCE_SERVICE_PASSWORD
\getenv relay_password RELAY_SERVICE_PASSWORD
\getenv consumer_password PLATFORM_CONSUMER_PASSWORD

BEGIN;
SET LOCAL client_min_messages = warning;

-- Two runs at once would both create what neither sees yet.
SELECT pg_advisory_xact_lock(hashtext('deploy/sql/roles.sql')) \g /dev/null

DO $$
DECLARE
    service record;
    owner name;
    -- Since 16 a member may act as a role only if its membership says so.
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
        -- Only who may act as a role can give it something to own. Superusers may; others join it here.
        IF NOT pg_has_role(current_user, service.role_name, act_as) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', service.role_name);
        END IF;
        SELECT pg_get_userbyid(nspowner) INTO owner FROM pg_namespace WHERE nspname = service.schema_name;
        IF owner IS NULL THEN
            EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', service.schema_name, service.role_name);
        ELSIF owner <> service.role_name THEN
            -- Its tables belong to that role too: whether to hand them over is for a person to decide.
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
