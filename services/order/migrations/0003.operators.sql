-- Records of the operators' acts on sagas and books, with name and reason; and the leader of the audit.
-- depends: 0001.orders

CREATE TABLE orders.operator_acts (
    act_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    act text NOT NULL,
    order_id uuid,
    saga_id uuid,
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    detail jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX operator_acts_of_order ON orders.operator_acts (order_id);

-- Work that one process at a time, the leader, does for all: the audit.
CREATE TABLE orders.duties (
    duty text PRIMARY KEY,
    holder uuid NOT NULL,
    lease_until timestamptz NOT NULL
);
