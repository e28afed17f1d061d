"""Guards of product shards: what follows from a mix of outcomes, and what the audit and its repair do with a shard."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/"
_saga = guards_in("services/order/saga.py", f"{_UNIT}order/test_product_shards.py::")
_shards = guards_in("services/order/product_shards.py", f"{_UNIT}order/test_product_shards.py::")
_admission = guards_in("services/order/engine/admission.py", f"{_UNIT}order/test_registry.py::")
_products = guards_in("services/product/api.py", "tests/integration/product/test_slots.py::")
_batch = guards_in("services/product/batch.py", "tests/integration/product/test_slots.py::")
_routes = guards_in("shared/participant/routes.py", "tests/integration/product/test_slots.py::")
_rules = guards_in("services/order/audit/rules.py", f"{_UNIT}order_audit/test_rules.py::")
_repairs = guards_in("services/order/audit/repairs.py", f"{_UNIT}order_audit/test_rules.py::")
_settings = guards_in("shared/process/settings.py", f"{_UNIT}order/test_settings.py::")

GUARDS: Sequence[Guard] = (
    _saga(
        "product shards: what was applied of a partly refused hold is undone",
        "def learn",
        "if isinstance(outcome, PartlyRefused):",
        "if False:",
        "test_partly_refused_hold_is_undone_and_then_the_order_is_rejected[place_now]",
    ),
    _shards(
        "product shards: a fenced part is not hidden by another refusal",
        "def _joined",
        "if is_fenced(problem):",
        "if False:",
        "test_fenced_part_comes_before_every_other_refusal",
    ),
    _shards(
        "product shards: a command without lines is not taken for done",
        "def split",
        'assert by_place, "a product command without lines has no place"',
        "pass",
        "test_command_without_lines_is_not_taken_for_done",
    ),
    _admission(
        "product shards: a saga beyond the limits of two shards counts once",
        "def available(self)",
        "excess = max(0, *(self._registry.count_in(lane) - limit for lane, limit in self._lane_limits.items()))",
        "excess = sum(max(0, self._registry.count_in(lane) - limit) for lane, limit in self._lane_limits.items())",
        "test_saga_beyond_the_limits_of_two_shards_counts_once",
    ),
    _products(
        "product shards: a product of another shard is not created",
        "def _check",
        "not in self._slots",
        "is None",
        "test_product_of_another_shard_is_refused_before_anything_is_done[POST-/v1/products-body0]",
    ),
    _products(
        "product shards: an id that a shard makes is its own",
        "def _made_id",
        "not in self._slots",
        "is None",
        "test_id_that_the_shard_makes_is_in_its_slots",
    ),
    _routes(
        "product shards: a hold for another shard is not refused",
        "async def take_commands",
        "if is_foreign is not None:",
        "if False:",
        "test_hold_of_another_shards_product_is_unknown_and_its_neighbours_are_run",
    ),
    _shards(
        "product shards: an undo names its products",
        "def split",
        '{"product_ids": [line.product_id for line in lines]}',
        '{"product_ids": []}',
        "test_undo_goes_to_the_parts_of_the_hold_and_names_the_products_of_each",
    ),
    _batch(
        "product shards: an undo for another shard is not taken for done",
        "def is_foreign",
        "slot_of(id_) not in slots",
        "slot_of(id_) is None",
        "test_undo_that_names_another_shards_product_is_unknown",
    ),
    _rules(
        "audit: a hold of a live order at the wrong shard is no orphan",
        "def compare(",
        "Kind.DIFFERENT if participant_at(place) in needed else Kind.ORPHAN",
        "Kind.ORPHAN",
        "test_hold_of_a_live_order_at_the_wrong_shard_is_no_orphan",
    ),
    _repairs(
        "audit: an orphan is released at the shard where it was found",
        "def repairs",
        "Command(finding.participant,",
        'Command("product",',
        "test_orphan_at_a_product_shard_is_repaired_there_and_nowhere_else",
    ),
    _repairs(
        "audit: a restored shard gets its own lines again",
        "def lacking",
        "if line.product_id in finding.due",
        "if True",
        "test_restored_product_shard_gets_its_lines_again_and_no_others",
    ),
    _settings(
        "settings: an error about several settings shows none of them",
        "def explain",
        """if not item["loc"]:""",
        "if False:",
        "test_both_settings_of_the_products_are_refused_without_showing_the_others",
    ),
)
