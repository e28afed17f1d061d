"""Guards of the division into cells: slots in ids."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/"
_ids = guards_in("shared/ids.py", f"{_UNIT}shared/test_slots.py::")
_slots = guards_in("shared/slots.py", f"{_UNIT}shared/test_slots.py::")
_operations = guards_in("services/order/engine/operations.py", f"{_UNIT}order/test_operations.py::")

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
        "user_id.encode()",
        'user_id.encode("utf-16")',
        "test_slots_of_known_users_are_what_they_always_were[alice-3143]",
    ),
)
