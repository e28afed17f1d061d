"""Guards of orderctl where there are several cells: no list is silently short, and no act goes to a wrong cell."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_CELLS = "tests/integration/orderctl/test_several_cells.py::test_"
_merging = guards_in("deploy/orderctl/merging.py", _CELLS)
_order = guards_in("deploy/orderctl/merging.py", "tests/unit/orderctl/test_merging.py::test_")
_audit = guards_in("deploy/orderctl/audit.py", _CELLS)
_together = guards_in("deploy/orderctl/cells.py", "tests/unit/orderctl/test_cells.py::test_")

GUARDS: Sequence[Guard] = (
    _merging(
        "orderctl: a list without the rows of a silent cell is not a success",
        "def show_merged",
        "answers.require_all()",
        "pass",
        "list_without_a_cell_that_does_not_answer_is_status_1_and_names_it",
    ),
    _merging(
        "orderctl: what a silent cell may have is not missing",
        "def _end_without_owner",
        "if silent:",
        "if False:",
        "what_no_cell_has_is_missing_only_if_all_have_said_so",
    ),
    _merging(
        "orderctl: nothing is done to what two cells have",
        "async def answered",
        "if len(answers.found) != 1:",
        "if not answers.found:",
        "nothing_is_done_if_two_cells_have_it",
    ),
    _order(
        "orderctl: rows of the others behind a cell's last row would look complete",
        "def merged",
        "list(islice(merge(*rows, key=key, reverse=newest_first), limit))",
        "list(merge(*rows, key=key, reverse=newest_first))",
        "first_rows_of_cells_are_those_of_one_sorted_list",
    ),
    _order(
        "orderctl: a database may sort in another way",
        "def merged",
        "list(islice(merge(*rows, key=key, reverse=newest_first), limit))",
        "sorted((row for of in rows for row in of), key=key, reverse=newest_first)[:limit]",
        "list_that_a_database_sorts_in_another_way_has_no_gap",
    ),
    _audit(
        "orderctl: cells that own the same slot are not repaired",
        "def repair(",
        "_check_division(cells)",
        "pass",
        "repair_runs_in_each_cell_if_they_divide_all_slots",
    ),
    _together(
        "orderctl: the books of shared product shards count once",
        "def together",
        "if about in shared:",
        "if False:",
        "product_shards_that_cells_share_count_once_and_their_own_participants_each",
    ),
)
