"""Guards of the division into cells: slots in ids, and what belongs to which cell."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/"
_ids = guards_in("shared/ids.py", f"{_UNIT}shared/test_slots.py::")
_slots = guards_in("shared/slots.py", f"{_UNIT}shared/test_slots.py::")
_operations = guards_in("services/order/engine/operations.py", f"{_UNIT}order/test_operations.py::")

_admission = guards_in("services/order/process.py", "tests/integration/order/test_admission.py::")
_settings = guards_in("shared/process/settings.py", f"{_UNIT}order/test_settings.py::")
_CELLS = "tests/integration/test_cells.py::test_"
_orders = guards_in("services/order/api.py", _CELLS)
_coupons = guards_in("services/coupon/api.py", _CELLS)
_balances = guards_in("services/balance/api.py", _CELLS)
_rules = guards_in("services/order/audit/rules.py", f"{_UNIT}order_audit/test_rules.py::")
_audits = "tests/integration/order_audit/test_cells.py::"
_passes = guards_in("services/order/audit/passes.py", _audits)
_repair = guards_in("services/order/admin/audit_api.py", _audits)
_books = guards_in("services/order/audit/books.py")
_holds = guards_in("services/product/queries.sql")
_OWN_HOLDS = "tests/integration/product/test_own_holds.py::"
_client = guards_in("deploy/client/transport.py", "tests/integration/client/test_slots.py::")
_agreement = guards_in("deploy/orderctl/cells.py", f"{_UNIT}orderctl/test_cells.py::")
_ROUTED = "tests/integration/http/test_cell_router.py::test_"
_router = guards_in("deploy/cells/haproxy.cfg", _ROUTED)
_subject = guards_in("deploy/cells/subject.lua", _ROUTED)
_MOVING = "tests/integration/test_moving_slots.py::"
_STAYING = "tests/integration/test_slots_that_stay.py::"
_moved_rows = guards_in("services/order/audit/passes.py")
_moved_events = guards_in("services/order/audit/rules.py", f"{_UNIT}order_audit/test_rules.py::")
_closed = guards_in("shared/slots.py", f"{_UNIT}order/test_closed_slots.py::")
_expiry = guards_in("services/order/queries.sql", _MOVING)
_copying = guards_in("deploy/slots/copying.py", _STAYING)
_states = guards_in("deploy/slots/databases.py", _MOVING)
_changes = guards_in("deploy/slots/databases.py", _STAYING)
_steps = guards_in("deploy/slots/moving.py", _STAYING)
_CHECK = "self._ownership.check_user(user_id)"


def _refused(call: str) -> str:
    return f"what_is_another_cells_is_refused_before_anything_is_begun[{call}]"


GUARDS: Sequence[Guard] = (
    _operations(
        "slots: a new order's id contains its user's slot",
        "def new_order",
        "uuid7(now, slot_of(user_id))",
        "uuid7(now)",
        "test_new_order_s_id_contains_its_users_slot",
    ),
    _ids(
        "slots: an id with a slot keeps its version",
        "if slot is not None",
        "(0x7000 | slot)",
        "slot",
        "test_an_id_with_a_slot_is_still_a_uuid_of_version_7",
    ),
    _slots(
        "slots: a user's slot is fixed for ever",
        "def slot_of",
        "id_.encode()",
        'id_.encode("utf-16")',
        "test_slots_of_known_users_are_what_they_always_were[alice-3143]",
    ),
    _slots(
        "cells: an id from before the slots belongs to the cell that has these",
        "def owns",
        "self.older if self.is_older(id_) else slot_in(id_) in self.slots",
        "slot_in(id_) in self.slots",
        "test_a_refusal_names_the_slot_if_there_is_one",
    ),
    _settings(
        "cells: a cell among others knows which ids have no slot",
        "def _with_slots",
        "since is None and",
        "False and",
        "test_cell_that_owns_a_part_must_know_since_when_ids_have_slots[0-2047 older]",
    ),
    _admission(
        "cells: nothing begins while new ids would look older",
        "fitness = ",
        "fitness.append(partial(check_slot_time, settings.ownership, self.clock))",
        "pass",
        "test_cell_begins_nothing_while_its_new_ids_would_belong_to_another_cell",
    ),
    _orders(
        "cells: a placement for another cell begins nothing",
        "async def place",
        _CHECK,
        "pass",
        _refused("POST /v1/orders"),
        "caller_of_another_cell_is_refused[POST /v1/orders]",
    ),
    _orders(
        "cells: orders of another cell's user are not listed as if there were none",
        "async def list(",
        _CHECK,
        "pass",
        _refused("GET /v1/orders?user_id=alice"),
    ),
    _orders(
        "cells: another cell's order is not a missing one",
        "def _id(",
        "self._ownership.check_id(order_id)",
        "pass",
        _refused("POST /v1/orders/019a0c1e-7d52-7c47-9b1f-2f4e8a6d0c11/payment"),
    ),
    _coupons(
        "cells: no coupon is created in another cell",
        "async def create",
        "self._ownership.check_user(new.user_id)",
        "pass",
        _refused("POST /v1/coupons"),
    ),
    _coupons(
        "cells: coupons of another cell's user are not listed as if there were none",
        "async def list(",
        _CHECK,
        "pass",
        _refused("GET /v1/coupons?user_id=alice"),
    ),
    _coupons(
        "cells: another cell's coupon is not a missing one",
        "def _user_of",
        _CHECK,
        "pass",
        _refused("GET /v1/coupons/C1?user_id=alice"),
        "caller_of_another_cell_is_refused[GET /v1/coupons/C1]",
    ),
    _balances(
        "cells: no account is charged in another cell",
        "async def charge",
        _CHECK,
        "pass",
        _refused("POST /v1/accounts/alice/charges"),
    ),
    _balances(
        "cells: another cell's account is not a missing one",
        "async def get",
        _CHECK,
        "pass",
        _refused("GET /v1/accounts/alice"),
    ),
    _balances(
        "cells: another cell's ledger is not a missing one",
        "async def list_entries",
        _CHECK,
        "pass",
        _refused("GET /v1/accounts/alice/entries"),
    ),
    _router(
        "router: a client that keeps its connection never sends into a closed one",
        "frontend clients",
        "  option idle-close-on-response\n",
        "",
        "idle_connection_is_kept_until_its_next_answer_at_a_reload",
    ),
    _router(
        "router: a user in the query is read until the next parameter, and a plus as a space",
        'set-var(txn.named) "query',
        "field(1,&),url_dec(1)",
        "url_dec",
        "lists_are_routed_by_the_user_in_the_query",
    ),
    _router(
        "router: a user in the path is decoded",
        "set-var(txn.part) path",
        ",url_dec",
        "",
        "products_are_routed_by_their_id",
        "accounts_are_routed_by_the_user_in_the_path",
    ),
    _router(
        "router: the header does not count where the path names the user",
        "set-var(txn.slot) req.fhdr",
        " !in_query !in_path",
        "",
        "accounts_are_routed_by_the_user_in_the_path",
        "lists_are_routed_by_the_user_in_the_query",
    ),
    _router(
        "router: an order's id counts before the header",
        "acl has_id",
        "http-request set-var(txn.slot) var(txn.id),bytes(15,3),hex2i if has_id",
        "",
        "any_uuid_is_routed_as_the_services_read_it",
    ),
    _router(
        "router: older orders are in one cell",
        "acl older",
        "int(-1)",
        "int(0)",
        "order_without_a_slot_is_in_cell_0",
    ),
    _router(
        "router: a request that names nobody is answered",
        "# A request that names nobody",
        "int(0)",
        "int(5000)",
        "who_has_no_token_is_refused[]",
    ),
    _router(
        "router: a token with escapes is not read by HAProxy's own converter",
        "acl has_escapes",
        "json_query('$.sub') unless has_escapes",
        "json_query('$.sub')",
        "caller_is_routed_by_the_subject_of_the_token",
    ),
    _router(
        "router: a token that HAProxy's own converter does not read is read by the script",
        "acl has_escapes",
        "lua.subject unless { var(txn.named) -m found }",
        "lua.subject if has_escapes",
        "caller_is_routed_by_the_subject_of_the_token",
    ),
    _subject(
        "router: escapes in a token are characters of two and more bytes",
        "local function read_string",
        "utf8.char(code)",
        "string.char(code % 256)",
        "caller_is_routed_by_the_subject_of_the_token",
    ),
    _subject(
        "router: two escapes of a token may be one character",
        "local function read_string",
        "code >= 0xD800 and code < 0xDC00 and low",
        "false",
        "caller_is_routed_by_the_subject_of_the_token",
    ),
    _subject(
        "router: the members of a token's members are not its subject",
        "local function subject",
        'mark == "," and depth == 1',
        'mark == ","',
        "caller_is_routed_by_the_subject_of_the_token",
    ),
    _passes(
        "audit: what a shared participant holds for another cell is no orphan",
        "async def _compare_all",
        "if order_id not in orders and not self._ownership.owns(order_id):",
        "if False:",
        "test_no_cell_takes_the_holds_of_another_for_orphans",
    ),
    _passes(
        "audit: an order is compared, whichever cell its id belongs to",
        "async def _compare_all",
        "order_id not in orders and",
        "",
        "test_order_in_the_wrong_cell_is_found_and_not_repaired",
    ),
    _passes(
        "audit: an order in the wrong cell is no missing hold",
        "def _findings",
        "if misplaced := list(rules.compare_cell(order, self._ownership)):",
        "if misplaced := []:",
        "test_order_in_the_wrong_cell_is_found_and_not_repaired",
    ),
    _repair(
        "audit: a repair knows the cell too",
        "async def audit_now",
        "            ownership=own,\n",
        "",
        "test_no_cell_takes_the_holds_of_another_for_orphans",
    ),
    _rules(
        "audit: an id with another slot than its user shows that the time is wrong",
        "def compare_cell",
        "slot_in(order_id) == slot_of(order.user_id)",
        "True",
        "test_order_is_misplaced_by_its_slot[another slot of this cell]",
    ),
    _rules(
        "audit: without a time since when ids have slots, no order is misplaced",
        "def compare_cell",
        "ownership.since_milliseconds and",
        "True and",
        "test_without_a_time_no_order_is_misplaced",
    ),
    _books(
        "audit: a page of one cell's orders may be short, and not the last",
        "async def holds_after",
        "page.until or (",
        "(",
        f"{_OWN_HOLDS}test_audit_reads_the_same_with_and_without_the_filter",
    ),
    _books(
        "audit: a participant of an earlier version ignores the slots, and says not how far it has read",
        "async def holds_after",
        "(max(held) if len(held) == limit else LAST)",
        "LAST",
        "tests/unit/order_audit/test_books.py::test_pages_of_an_earlier_version_are_read_to_their_end[11]",
    ),
    _holds(
        "audit: a page that is full of one cell's orders is complete up to its last one",
        "-- name: list_own_holds",
        "coalesce((SELECT order_id FROM own ORDER BY order_id OFFSET $3 - 1 LIMIT 1),",
        "coalesce(",
        f"{_OWN_HOLDS}test_pages_of_any_size_have_each_order_of_the_cell_once[0-1 older-0]",
    ),
    _holds(
        "audit: a page for which as many orders were read as may be is not the last one",
        "-- name: list_own_holds",
        "(SELECT order_id FROM read ORDER BY order_id OFFSET $4 - 1 LIMIT 1),",
        "",
        f"{_OWN_HOLDS}test_pages_of_any_size_have_each_order_of_the_cell_once[0-1 older-0]",
    ),
    _holds(
        "audit: older orders are of one cell, whatever their bits are",
        "-- name: list_own_holds",
        "order_id < $6 THEN $7::boolean",
        "order_id < $6 AND NOT $7 THEN false",
        f"{_OWN_HOLDS}test_pages_of_any_size_have_each_order_of_the_cell_once[older-0]",
    ),
    _client(
        "client: a router reads whom a body names",
        "async def _headers",
        'headers["X-Slot"] = str(request.slot)',
        "pass",
        "test_request_whose_body_names_somebody_or_a_product_has_its_slot",
    ),
    _agreement(
        "orderctl: an order service that knows no cells takes the holds of all for orphans",
        "def disagreements",
        'if "cell" not in report',
        "if False",
        "test_order_service_of_an_earlier_version_is_named",
    ),
    _agreement(
        "orderctl: a slot of two cells is as wrong as one of none",
        "def disagreements",
        "if len(of) != 1:",
        "if not of:",
        "test_slots_of_several_cells_or_of_none_are_named[slots0-lines0]",
    ),
    _moved_rows(
        "slots: what is held for a slot that leaves during a pass is no orphan",
        "async def _confirm_difference",
        "if is_in(elsewhere, order_id) or is_in(elsewhere_now, order_id):",
        "if False:",
        "tests/integration/order_audit/test_passes.py::test_hold_of_a_slot_that_leaves_during_a_pass_is_no_orphan",
    ),
    _moved_events(
        "slots: an order's earlier events are where it was",
        "def compare_events",
        "or event in elsewhere",
        "",
        "test_order_from_another_cell_has_its_later_events_here",
    ),
    _closed(
        "slots: the bits of an older id mean nothing",
        "def is_in",
        " and first <= id_",
        "",
        "test_only_orders_of_closed_slots_with_ids_since_slots_are_refused",
    ),
    _expiry(
        "slots: orders that have moved expire where they are",
        "-- name: list_expired",
        "AND NOT EXISTS",
        "AND NOT EXISTS (SELECT WHERE false) OR EXISTS",
        "test_old_cell_refuses_the_slot_alone_whatever_its_settings",
    ),
    _states(
        "slots: a closed slot is refused by triggers",
        "def close(",
        "ENABLE TRIGGER closed_slot",
        "DISABLE TRIGGER closed_slot",
        "test_slot_moves_with_all_that_belongs_to_its_users",
    ),
    _copying(
        "slots: what arrived is compared before the commit",
        "def _copy_table",
        "if left.digest() != arrived:",
        "if False:",
        "test_what_arrives_changed_is_not_kept",
    ),
    _steps(
        "slots: each run makes sure that the triggers are in force",
        "def _leave",
        '    close(source, service, moved, "leaving", say)\n',
        '    if state is None:\n        close(source, service, moved, "leaving", say)\n',
        "test_kill_between_a_state_and_its_triggers_leaves_no_hole",
    ),
    _steps(
        "slots: nothing is copied while a saga is live",
        "def _copy_all",
        "    _wait_until_quiet(source, moved, wait_seconds, say)\n",
        "",
        "test_live_saga_and_parked_event_keep_a_slot_until_it_is_cancelled",
    ),
    _steps(
        "slots: a cell that has handed over can't cancel",
        "def cancel",
        '<= {None, "leaving"}',
        '<= {None, "leaving", "gone"}',
        "test_slots_that_moved_on_are_not_moved_or_cancelled_again",
    ),
    _steps(
        "slots: a cell whose slots are gone stays closed when it gets them again by mistake",
        "def _prepare_all",
        "            check_empty(target, service, moved)\n",
        "            pass\n",
        "test_slots_that_are_gone_stay_closed_if_a_move_to_them_is_refused",
    ),
    _steps(
        "slots: an earlier copy is never handed over",
        "def _copy_all",
        'if "arrived" in target.states(moved).values():',
        "if False:",
        "test_copy_of_a_move_that_did_not_end_is_never_handed_over",
    ),
    _steps(
        "slots: a hand-over that has begun is not cancelled",
        "def cancel",
        " or handed_over",
        "",
        "test_hand_over_that_has_begun_is_not_cancelled_from_another_cell",
    ),
    _changes(
        "slots: a command that lost its lock changes nothing",
        "def _all_changed",
        "if done.rowcount != len(moved.slots):",
        "if False:",
        "test_command_that_lost_its_lock_changes_nothing_of_another_one",
    ),
    _changes(
        "slots: vacuum's lock is waited for",
        "def _lock",
        "SHARE UPDATE EXCLUSIVE MODE",
        "SHARE UPDATE EXCLUSIVE MODE NOWAIT",
        "test_vacuum_of_the_closed_slots_is_no_other_command",
    ),
)
