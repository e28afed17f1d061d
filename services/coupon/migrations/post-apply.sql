-- What roles may do in this schema. `migrate` applies it after the migrations, also if there were none to apply.
-- deploy/sql/roles.sql creates the roles. Without them, one role owns and does everything.
DO $$
BEGIN
    IF (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'coupons') <> 'coupon_owner' THEN
        RETURN;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA coupons FROM coupon_service;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA coupons FROM PUBLIC, coupon_service;

    GRANT SELECT, INSERT, UPDATE ON coupons.coupons TO coupon_service;
    GRANT SELECT, INSERT, UPDATE, DELETE ON coupons.gates TO coupon_service;
    GRANT SELECT, INSERT, DELETE ON coupons.outcomes TO coupon_service;
    GRANT SELECT, UPDATE ON coupons.horizon TO coupon_service;
    GRANT SELECT ON coupons.closed_slots TO coupon_service;
    GRANT EXECUTE ON FUNCTION coupons.first_id_after, coupons.is_dated, coupons.slot_in, coupons.slot_of, coupons.refuse_closed_slot
    TO coupon_service;
END
$$;
