"""The nightly table: a row for each target, with the figures that it printed."""

import re
from pathlib import Path

import pytest

from tests.nightly.targets import TARGETS, Ended, Target, table

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


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_target_is_one_of_make_and_takes_the_seed_if_it_is_given_one(target: Target) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    found = re.search(rf"^{target.name}:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert found is not None
    assert ("$(SEED)" in found[1]) is target.seeded
    assert all(f"$({variable.split('=')[0]})" in found[1] for variable in target.variables)


def test_simulation_of_the_night_is_more_than_one_history() -> None:
    (simulate,) = [target for target in TARGETS if target.name == "simulate"]
    assert simulate.command == "make simulate STEPS=1000000"
