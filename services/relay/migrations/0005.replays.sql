-- Events that operators have published again, into topics of their own.
-- depends: 0003.bounded_claims

CREATE TABLE relay.replays (
    replay_id    uuid PRIMARY KEY,
    topic        text NOT NULL CHECK (length(topic) BETWEEN 1 AND 249),
    -- Which events: those that fit all that is given.
    order_id     uuid,
    type         text,
    from_at      timestamptz,
    to_at        timestamptz,
    actor        text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    reason       text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- FAILED: Kafka refuses one of the events for its own sake. It and a cancelled one can be resumed.
    state        text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED', 'FAILED')),
    -- The last event that had been published when the replay was asked for, and how far it has come. An order's ids
    -- rise with its sequence, so that each order comes out in sequence however often a step is repeated.
    up_to        bigint NOT NULL,
    position     bigint NOT NULL DEFAULT 0,
    events       bigint NOT NULL DEFAULT 0,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who cancelled or resumed it last, and why; what Kafka said.
    changed_by   text,
    changed_why  text,
    failure      text,
    CHECK (num_nonnulls(order_id, type, from_at, to_at) > 0),
    CHECK (to_at > from_at),
    CHECK ((state = 'FAILED') = (failure IS NOT NULL))
);

CREATE INDEX replays_running ON relay.replays (created_at) WHERE state = 'RUNNING';
