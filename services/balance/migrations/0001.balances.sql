-- Accounts, their ledger, and the participant protocol's gates and outcomes.

CREATE TABLE balances.accounts (
    user_id text PRIMARY KEY CHECK (length(user_id) BETWEEN 1 AND 128),
    balance bigint NOT NULL CHECK (balance >= 0),
    -- Charges of the account's lifetime. Refunds give back what was debited, so no balance ever exceeds it:
    -- bounding it keeps every later refund within a bigint.
    charged bigint NOT NULL CHECK (charged >= balance),
    entry_count bigint NOT NULL CHECK (entry_count >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);  -- room for HOT updates: every entry changes its account

-- An account's balance equals the sum of its entries and its last balance_after: one transaction writes them.
CREATE TABLE balances.entries (
    user_id text NOT NULL REFERENCES balances.accounts,
    number bigint NOT NULL CHECK (number >= 1),  -- 1, 2, 3 … per account, without gaps
    entry_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('charge', 'debit', 'refund')),
    amount bigint NOT NULL,  -- the change of the balance: a debit is negative
    counter_account text NOT NULL,
    order_id uuid,
    attempt integer,
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    balance_after bigint NOT NULL CHECK (balance_after >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, number),
    CHECK (CASE kind WHEN 'debit' THEN amount < 0 ELSE amount > 0 AND balance_after >= amount END),
    CHECK (counter_account = CASE kind WHEN 'charge' THEN 'funding' ELSE 'sales' END),
    CHECK ((order_id IS NULL) = (kind = 'charge') AND (attempt IS NULL) = (kind = 'charge')),
    CHECK (idempotency_key IS NULL OR kind = 'charge'),
    CHECK (number > 1 OR (kind = 'charge' AND balance_after = amount))  -- an account begins with a charge
);

-- Also finds what an order paid. An order pays once per attempt and is refunded once.
CREATE UNIQUE INDEX entries_by_order ON balances.entries (order_id, user_id, kind, attempt)
    WHERE order_id IS NOT NULL;
CREATE UNIQUE INDEX entries_by_key ON balances.entries (user_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE FUNCTION balances.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON balances.entries
    FOR EACH STATEMENT EXECUTE FUNCTION balances.refuse_change();

CREATE TABLE balances.gates (
    order_id uuid PRIMARY KEY,
    closed boolean NOT NULL DEFAULT false,
    opened_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 90);

CREATE TABLE balances.outcomes (
    order_id uuid NOT NULL REFERENCES balances.gates,
    type text NOT NULL,
    attempt integer NOT NULL,
    applied boolean NOT NULL,
    body jsonb NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, type, attempt)
);
