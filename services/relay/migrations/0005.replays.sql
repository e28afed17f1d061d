-- Replays: events that are published again, at an operator's request, into separate topics.
-- depends: 0003.bounded_claims

CREATE TABLE relay.replays (
    replay_id    uuid PRIMARY KEY,
    topic        text NOT NULL CHECK (length(topic) BETWEEN 1 AND 249),
    -- Which events: those that match every given field.
    order_id     uuid,
    type         text,
    from_at      timestamptz,
    to_at        timestamptz,
    actor        text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
    reason       text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- FAILED: Kafka refuses one of the events itself. A failed or cancelled replay can be resumed.
    state        text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'CANCELLED', 'FAILED')),
    -- The last event that was published when the replay was created, and the replay's progress. An order's ids rise
    -- with its sequence, so each order is published in sequence, even if a step is repeated.
    up_to        bigint NOT NULL,
    position     bigint NOT NULL DEFAULT 0,
    events       bigint NOT NULL DEFAULT 0,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who cancelled or resumed it last, and why; and Kafka's error.
    changed_by   text,
    changed_why  text,
    failure      text,
    CHECK (num_nonnulls(order_id, type, from_at, to_at) > 0),
    CHECK (to_at > from_at),
    CHECK ((state = 'FAILED') = (failure IS NOT NULL))
);

CREATE INDEX replays_running ON relay.replays (created_at) WHERE state = 'RUNNING';
