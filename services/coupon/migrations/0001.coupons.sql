-- Coupons, and the participant protocol's gates and outcomes.

CREATE TABLE coupons.coupons (
    coupon_id text PRIMARY KEY CHECK (length(coupon_id) BETWEEN 1 AND 128),
    user_id text NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
    kind text NOT NULL CHECK (kind IN ('fixed', 'percent')),
    -- fixed: minor units; percent: 1..100
    value bigint NOT NULL CHECK (value >= 1 AND (kind = 'fixed' OR value <= 100)),
    max_discount bigint CHECK (max_discount >= 1),
    min_subtotal bigint NOT NULL DEFAULT 0 CHECK (min_subtotal >= 0),
    expires_at timestamptz,
    status text NOT NULL DEFAULT 'AVAILABLE' CHECK (status IN ('AVAILABLE', 'RESERVED', 'REDEEMED')),
    -- The order that reserved or redeemed it, the discount promised to that order, and since when.
    order_id uuid CHECK ((order_id IS NULL) = (status = 'AVAILABLE')),
    discount_amount bigint CHECK (discount_amount >= 0 AND (kind = 'percent' OR discount_amount <= value)
        AND (max_discount IS NULL OR discount_amount <= max_discount)),
    held_at timestamptz CHECK ((held_at IS NULL) = (status = 'AVAILABLE')),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((discount_amount IS NULL) = (status = 'AVAILABLE'))
);

CREATE UNIQUE INDEX coupons_by_order ON coupons.coupons (order_id) WHERE order_id IS NOT NULL;
-- A user has few coupons, so a filter by status needs no index: each further index is written at every redemption.
CREATE INDEX coupons_by_user ON coupons.coupons (user_id, coupon_id);
CREATE INDEX coupons_by_status ON coupons.coupons (status, coupon_id);

CREATE TABLE coupons.gates (
    order_id uuid PRIMARY KEY,
    closed boolean NOT NULL DEFAULT false,
    opened_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 90);

CREATE TABLE coupons.outcomes (
    order_id uuid NOT NULL REFERENCES coupons.gates,
    type text NOT NULL,
    attempt integer NOT NULL,
    applied boolean NOT NULL,
    body jsonb NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, type, attempt)
);
