-- Orders, the sagas that move them, idempotency keys, and the leases of the processes that run sagas.

CREATE TABLE orders.orders (
    order_id uuid PRIMARY KEY,
    user_id text NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
    status text NOT NULL CHECK (status IN ('PLACING', 'PAID', 'PENDING_PAYMENT', 'REJECTED', 'PAYING',
                                           'EXPIRED', 'CANCELLED', 'REFUNDED')),
    -- [{product_id, quantity}] as requested; name and unit_price are added once the stock is held.
    lines jsonb NOT NULL,
    coupon_id text CHECK (length(coupon_id) BETWEEN 1 AND 128),
    subtotal_amount bigint CHECK (subtotal_amount >= 0),
    discount_amount bigint CHECK (discount_amount BETWEEN 0 AND subtotal_amount),
    total_amount bigint CHECK (total_amount = subtotal_amount - discount_amount),
    currency text NOT NULL,
    -- The order's status once the saga that closes it has undone everything.
    closing text CHECK (closing IN ('EXPIRED', 'CANCELLED', 'REFUNDED')),
    reason text,
    payment_attempt integer NOT NULL DEFAULT 0,
    event_sequence bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    paid_at timestamptz,
    CHECK (status NOT IN ('PAID', 'PENDING_PAYMENT', 'PAYING') OR total_amount IS NOT NULL),
    CHECK (status <> 'PENDING_PAYMENT' OR expires_at IS NOT NULL),
    CHECK ((status IN ('PAID', 'REFUNDED')) = (paid_at IS NOT NULL)),
    CHECK ((reason IS NOT NULL) = (status = 'REJECTED'))
) WITH (fillfactor = 80);

CREATE INDEX orders_of_user ON orders.orders (user_id, order_id);
CREATE INDEX orders_by_status ON orders.orders (status, order_id);
CREATE INDEX orders_unpaid ON orders.orders (expires_at) WHERE status = 'PENDING_PAYMENT' AND closing IS NULL;

CREATE TABLE orders.sagas (
    saga_id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES orders.orders,
    kind text NOT NULL CHECK (kind IN ('place_now', 'place_later', 'pay', 'close')),
    version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('RUNNING', 'COMPENSATING', 'DONE', 'COMPENSATED')),
    -- The order's status when compensation ends; null while there is nothing to undo.
    target text CHECK (target IN ('REJECTED', 'EXPIRED', 'CANCELLED', 'REFUNDED')),
    attempt integer NOT NULL DEFAULT 0,
    owner uuid NOT NULL,
    -- A flag beside the status, so that a stuck saga keeps its direction.
    stuck boolean NOT NULL DEFAULT false,
    problem jsonb,
    log jsonb NOT NULL DEFAULT '[]',
    traceparent text,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CHECK ((status = 'COMPENSATING') <= (target IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (status IN ('RUNNING', 'COMPENSATING')))
) WITH (fillfactor = 80);

-- At most one live saga per order: the guard that a payment, a cancellation and an expiry race for.
CREATE UNIQUE INDEX sagas_live ON orders.sagas (order_id) WHERE status IN ('RUNNING', 'COMPENSATING');
CREATE INDEX sagas_of_order ON orders.sagas (order_id, saga_id);
CREATE INDEX sagas_owned ON orders.sagas (owner) WHERE status IN ('RUNNING', 'COMPENSATING');

CREATE TABLE orders.processes (
    process_id uuid PRIMARY KEY,
    lease_until timestamptz NOT NULL
);

CREATE TABLE orders.idempotency_keys (
    user_id text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    -- The saga whose end answers the key; null if the answer was known at once.
    saga_id uuid,
    status smallint,
    body bytea,
    location text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, operation, key),
    CHECK ((status IS NULL) = (body IS NULL)),
    CHECK (saga_id IS NOT NULL OR status IS NOT NULL)
);

CREATE INDEX idempotency_keys_of_saga ON orders.idempotency_keys (saga_id) WHERE status IS NULL;
CREATE INDEX idempotency_keys_by_age ON orders.idempotency_keys (created_at);
