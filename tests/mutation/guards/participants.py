"""Guards of the participants: locks in one order, gates, retention, and which way a batch is run."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_LOCKS = "tests/integration/test_participant_locks.py::"
_FAST_PATH = "tests/integration/fast_path/"
_gates = guards_in("shared/participant/gates.sql", _LOCKS)
_product = guards_in("services/product/queries.sql", _LOCKS)
_coupon = guards_in("services/coupon/queries.sql", _LOCKS)
_balance = guards_in("services/balance/queries.sql", _LOCKS)
_retention = guards_in("shared/participant/gates.sql", "tests/integration/test_retention.py::")
_fast_path = guards_in("services/product/queries.sql", f"{_FAST_PATH}test_general_path.py::")
_concurrent = guards_in("services/product/queries.sql", f"{_FAST_PATH}test_concurrent_sessions.py::")
_sort = guards_in("shared/participant/gates.py", "tests/unit/shared/test_gates.py::")
_protocol = guards_in("shared/participant/protocol.py", "tests/unit/shared/test_protocol.py::")
_executor = guards_in("shared/participant/executor.py", "tests/unit/shared/test_executor.py::")
_books = guards_in("shared/participant/routes.py", "tests/integration/test_books.py::")
_order = guards_in("shared/participant/executor.py", "tests/unit/test_participant_batches.py::")
_LOCK = "closed, past, now = await gates.lock_gates(db, ids)"
_coupons = guards_in("services/coupon/batch.py", "tests/unit/coupon/test_batch.py::")
_debits = guards_in("services/balance/batch.py", "tests/unit/balance/test_batch.py::")

LOCKS = (
    _gates(
        "participant: gates are opened in order of id",
        "-- name: open_gates",
        " ORDER BY {gate}",
        "",
        "test_gates_are_opened_in_order_of_id[product]",
    ),
    _gates(
        "participant: gates are locked in order of id",
        "-- name: lock_gates\n",
        " ORDER BY {gate}",
        "",
        "test_gates_are_locked_in_order_of_id[product]",
    ),
    _gates(
        "participant: the horizon only rises",
        "-- name: raise_horizon",
        " AND pruned_before < {schema}.first_id_after(now() - make_interval(days => $1))",
        "",
        "test_horizon_only_rises[product]",
    ),
    _product(
        "product: products are locked in order of id",
        "-- name: lock_stock",
        " ORDER BY product_id",
        "",
        "test_things_are_locked_in_order_of_id[product]",
    ),
    _coupon(
        "coupon: coupons are locked in order of id",
        "-- name: lock_coupons",
        "\nORDER BY coupon_id",
        "",
        "test_things_are_locked_in_order_of_id[coupon]",
    ),
    _balance(
        "balance: accounts are locked in order of id",
        "-- name: lock_accounts",
        " ORDER BY user_id",
        "",
        "test_things_are_locked_in_order_of_id[balance]",
    ),
    _product(
        "product: the fast path locks in order of id",
        "-- name: hold_in_one_statement",
        "ORDER BY p.product_id ",
        "",
        "test_things_are_locked_in_order_of_id_by_the_fast_path[product]",
    ),
    _coupon(
        "coupon: the fast path locks in order of id",
        "-- name: use_in_one_statement",
        "ORDER BY c.coupon_id ",
        "",
        "test_things_are_locked_in_order_of_id_by_the_fast_path[coupon]",
    ),
    _balance(
        "balance: the fast path locks in order of id",
        "-- name: debit_in_one_statement",
        "ORDER BY a.user_id ",
        "",
        "test_things_are_locked_in_order_of_id_by_the_fast_path[balance]",
    ),
    _product(
        "product: units that were restored are not held",
        "-- name: read_holds",
        " AND status = 'HELD'",
        "",
        "test_only_units_that_are_held_are_read_and_restored[product]",
    ),
    _product(
        "product: units are restored once",
        "-- name: write_restored",
        " AND status = 'HELD'",
        "",
        "test_only_units_that_are_held_are_read_and_restored[product]",
    ),
)

GATES = (
    _sort(
        "participant: a gate that vanished makes the batch unknown",
        "def sort_gates",
        "if len(rows) < len(gates):",
        "if False:",
        "test_a_gate_that_vanished_before_it_was_locked_makes_the_batch_unknown",
    ),
    _protocol(
        "participant: a do on an order that is past is fenced",
        "def decide",
        "if command.gate in past and not command.undo:",
        "if False:",
        "test_do_before_the_horizon_is_fenced_even_if_its_outcome_is_stored",
    ),
    _protocol(
        "participant: the gate is asked before the stored outcome",
        "def _decide_one",
        "elif is_closed:\n        return FENCED\n    elif known is not None:\n        return known",
        "elif known is not None:\n        return known\n    elif is_closed:\n        return FENCED",
        "test_the_gate_is_asked_before_the_stored_outcome",
    ),
    _protocol(
        "participant: only a lone do of its gate takes the fast path",
        "def alone",
        " and count[command.gate] == 1",
        "",
        "test_only_dos_with_a_gate_of_their_own_in_the_batch_are_alone",
    ),
    _fast_path(
        "participant: the fast path leaves orders that look old",
        "-- name: hold_in_one_statement",
        "greatest(pruned_before, products.first_id_after(now() - interval '1 day'))",
        "pruned_before",
        "test_order_with_an_old_id_takes_the_general_path",
    ),
    _fast_path(
        "participant: the fast path leaves orders that are past",
        "-- name: hold_in_one_statement",
        "greatest(pruned_before, products.first_id_after(now() - interval '1 day'))",
        "products.first_id_after(now() - interval '1 day')",
        "test_order_before_the_horizon_is_fenced_despite_a_recent_id",
    ),
    _concurrent(
        "participant: the fast path leaves orders that are not new",
        "-- name: hold_in_one_statement",
        " AND (SELECT count(*) FROM opened) = cardinality($1)",
        "",
        "test_order_that_another_session_undoes_concurrently_is_fenced",
    ),
    _retention(
        "participant: an order whose id has no time is kept",
        "-- name: lock_gates_to_prune",
        "\n  AND {schema}.is_dated({gate})",
        "",
        "test_recent_orders_and_ids_without_a_time_are_kept[product]",
    ),
)

BATCHES = (
    _executor(
        "participant: outcomes of applied commands are known whatever becomes of the others",
        "self._run_rest(rest)",
        "if not applied:",
        "if True:",
        "test_outcomes_of_applied_commands_are_known_although_the_others_fail[transient]",
    ),
    _executor(
        "participant: one command does not keep the others from their transaction",
        "async def _apply_independent",
        "if not is_about_the_batch(error):",
        "if True:",
        "test_transaction_follows_a_fast_path_that_a_command_made_fail[of a command]",
    ),
    _executor(
        "participant: no transaction follows a server that does not answer",
        "async def _apply_independent",
        "if not is_about_the_batch(error):",
        "if False:",
        "test_transaction_follows_a_fast_path_that_a_command_made_fail[of the server]",
    ),
    _books(
        "participant: books are checked in one snapshot",
        "async def show_books",
        'isolation="repeatable_read"',
        'isolation="read_committed"',
        "test_books_are_checked_in_one_snapshot",
    ),
    _coupons(
        "coupon: a reserved coupon is redeemed in a transaction",
        "async def fast_path",
        " if not (isinstance(use, RedeemCoupon) and use.reserved)",
        "",
        "test_use_that_the_fast_path_cannot_do_right_is_left_to_the_transaction[a reserved coupon]",
    ),
    _coupons(
        "coupon: of two uses in a batch none takes the fast path",
        "async def fast_path",
        " if count[use.coupon_id] == 1",
        "",
        "test_use_that_the_fast_path_cannot_do_right_is_left_to_the_transaction[two of one coupon]",
    ),
    _debits(
        "balance: a second payment does not take the fast path",
        "async def fast_path",
        " and debit.attempt <= 1",
        "",
        "test_debit_that_the_fast_path_cannot_do_right_is_left_to_the_transaction[a second payment]",
    ),
    _debits(
        "balance: a debit of nothing does not take the fast path",
        "async def fast_path",
        " and debit.amount > 0",
        "",
        "test_debit_that_the_fast_path_cannot_do_right_is_left_to_the_transaction[nothing]",
    ),
    _debits(
        "balance: the fast path adds up no sum that fits no bigint",
        "async def fast_path",
        " if sums[debit.user_id] <= CHARGED_MAX",
        "",
        "test_debit_that_the_fast_path_cannot_do_right_is_left_to_the_transaction[a sum that fits no bigint]",
    ),
    _order(
        "participant: nothing else is read before the gates are locked",
        "async def execute",
        f"    {_LOCK}",
        f"    await gates.read_outcomes(db, ids)\n    {_LOCK}",
        "test_gates_are_locked_before_anything_else_is_read[product]",
    ),
)

GUARDS: Sequence[Guard] = (*LOCKS, *GATES, *BATCHES)
