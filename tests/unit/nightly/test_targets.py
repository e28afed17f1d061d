"""The nightly table: a row for each target, with the figures that it printed."""

import re
from pathlib import Path

import pytest

from tests.nightly.targets import CONTAINERS, REHEARSAL, TARGETS, Ended, Target, table

REPOSITORY = Path(__file__).parents[3]
SHOP = Target("faults", r"purchases", ("SECONDS=300",))


def test_target_that_passed_has_its_figures_in_the_table() -> None:
    ended = Ended(SHOP, 1234.4, 0, "begin\n12 purchases | of 13\n3 purchases more\nend\n")
    assert table([ended]).splitlines()[-1] == (
        "| `make faults SECONDS=300` | 1,234 | passed | 12 purchases \\| of 13<br>3 purchases more |"
    )


@pytest.mark.parametrize(("status", "result"), [(2, "FAILED (2)"), (None, "TOOK TOO LONG"), (0, "FAILED (no figures)")])
def test_target_that_failed_has_its_last_line_in_the_table(status: int | None, result: str) -> None:
    ended = Ended(SHOP, 1.0, status, "begin\nmake: *** it failed\n\n")
    assert table([ended]).splitlines()[-1] == f"| `make faults SECONDS=300` | 1 | {result} | make: *** it failed |"


@pytest.mark.parametrize("name", ["points", "alert-faults", "runbook", "containers"])
def test_summary_of_tests_is_a_figure_of_a_target_that_needs_no_other(name: str) -> None:
    (target,) = (target for target in TARGETS if target.name == name)
    output = "collected 60 items\n\n======= 58 passed, 2 skipped in 166.75s (0:02:46) =======\n"
    ended = Ended(target, 1.0, 0, output)
    assert (ended.figures, ended.passed) == (["58 passed, 2 skipped in 166.75s (0:02:46)"], True)


def test_figure_is_found_in_a_line_that_pytest_has_begun() -> None:
    """What a test prints first comes after the name of its file, or after the dots of other tests."""
    rows = "tests/containers/test_reach.py docs/reach.md, Connections: 9 rows\n.docs/reach.md, Kafka: 3 rows\n"
    assert len(Ended(CONTAINERS, 1.0, 0, rows).figures) == 2


@pytest.mark.parametrize("target", [*TARGETS, *REHEARSAL], ids=lambda target: target.command)
def test_target_is_one_of_make_and_takes_the_seed_if_it_is_given_one(target: Target) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    found = re.search(rf"^{target.name}:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert found is not None
    assert ("$(SEED)" in found[1]) is target.seeded
    assert all(f"$({variable.split('=')[0]})" in found[1] for variable in target.variables)


def test_simulation_of_the_night_is_more_than_one_history() -> None:
    (simulate,) = [target for target in TARGETS if target.name == "simulate"]
    assert simulate.command == "make simulate STEPS=2000000"


def test_rehearsal_is_everything_in_containers_the_short_drills_and_the_runbook() -> None:
    assert [target.command for target in REHEARSAL] == ["make containers", "make drills SHORT=1", "make runbook"]
    recipe = (REPOSITORY / "Makefile").read_text().partition("\nrehearsal:")[2].splitlines()[1]
    assert "CI=true" in recipe, "what can't run must fail"
