-- Products, the holds on their stock, and the participant protocol's gates and outcomes.

CREATE TABLE products.products (
    product_id text PRIMARY KEY CHECK (length(product_id) BETWEEN 1 AND 128),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    price bigint NOT NULL CHECK (price >= 0),
    -- Units free to sell. Together with the held units they equal put_in; the audit checks it.
    stock bigint NOT NULL CHECK (stock >= 0),
    put_in bigint NOT NULL CHECK (put_in >= stock),
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);  -- room for HOT updates: stock changes with every hold

CREATE TABLE products.gates (
    order_id uuid PRIMARY KEY,
    closed boolean NOT NULL DEFAULT false,
    opened_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 90);

CREATE TABLE products.outcomes (
    order_id uuid NOT NULL REFERENCES products.gates,
    type text NOT NULL,
    attempt integer NOT NULL,
    applied boolean NOT NULL,
    body jsonb NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, type, attempt)
);

CREATE TABLE products.holds (
    order_id uuid NOT NULL,
    product_id text NOT NULL REFERENCES products.products,
    quantity bigint NOT NULL CHECK (quantity > 0),
    unit_price bigint NOT NULL CHECK (unit_price >= 0),
    status text NOT NULL DEFAULT 'HELD' CHECK (status IN ('HELD', 'RESTORED')),
    held_at timestamptz NOT NULL DEFAULT now(),
    restored_at timestamptz CHECK ((restored_at IS NULL) = (status = 'HELD')),
    PRIMARY KEY (order_id, product_id)
);
