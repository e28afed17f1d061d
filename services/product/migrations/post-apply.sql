-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'products') <> 'product_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA products FROM product_service;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA products FROM PUBLIC, product_service;

    GRANT SELECT, INSERT, UPDATE ON products.products TO product_service;
    GRANT SELECT, INSERT, UPDATE, DELETE ON products.holds TO product_service;
    GRANT SELECT, INSERT, UPDATE, DELETE ON products.gates TO product_service;
    GRANT SELECT, INSERT, DELETE ON products.outcomes TO product_service;
    GRANT SELECT, UPDATE ON products.horizon TO product_service;
    GRANT EXECUTE ON FUNCTION products.first_id_after, products.is_dated TO product_service;
END
$$;
