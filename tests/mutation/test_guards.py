"""Every guard of a fixed set is needed: without it, the tests that it names fail.

`make mutants` runs it, beside the rules that only the simulation notices. `make mutation` looks for guards that have no
test.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutation.copies import copied, replaced
from tests.mutation.forks import Forks
from tests.mutation.guard import Guard
from tests.mutation.guards import GUARDS


@pytest.fixture(scope="session")
def copy() -> Iterator[Path]:
    with copied() as folder:
        yield folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as process:
        yield process


@pytest.fixture(scope="session")
def environment(postgres_server: str) -> dict[str, str]:
    """One Postgres for all, and the broker that starts soonest."""
    return {"TEST_DATABASE_URL": postgres_server, "TEST_BROKER": "embedded", "CI": ""}


@pytest.mark.parametrize("guard", [one for one in GUARDS if not one.real_broker], ids=lambda guard: guard.name)
def test_tests_notice(guard: Guard, copy: Path, forks: Forks, environment: dict[str, str]) -> None:
    notice(guard, copy, forks, environment)


@pytest.mark.real_broker
@pytest.mark.parametrize("guard", [one for one in GUARDS if one.real_broker], ids=lambda guard: guard.name)
def test_tests_with_a_real_broker_notice(
    guard: Guard, copy: Path, forks: Forks, environment: dict[str, str], kafka_bootstrap: str
) -> None:
    notice(guard, copy, forks, {**environment, "TEST_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap})


def notice(guard: Guard, copy: Path, forks: Forks, environment: dict[str, str]) -> None:
    """Check that all tests of a guard fail without it."""
    file = copy / guard.path
    with replaced(file, guard.mutant(file.read_text())):
        results = forks.run(copy, guard.tests, environment)
    # A test that hangs without the guard has noticed as well.
    unnoticed = [test for test in guard.tests if results.get(test) in ("passed", "skipped", "error")]
    assert not unnoticed, results
