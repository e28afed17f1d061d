"""Every guard of a fixed set is needed: without it, the tests that it names fail.

`make mutants` runs it, beside the rules that only the simulation notices. `make mutation` looks for guards that have no
test.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.infrastructure.databases import Database
from tests.mutation.guard import REPOSITORY, Guard
from tests.mutation.guards import GUARDS
from tests.mutation.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def environment(postgres_server: str, template: Callable[..., Database]) -> dict[str, str]:
    """One Postgres for all, with a database to copy, and the broker that starts soonest."""
    given = {"TEST_DATABASE_URL": postgres_server, "TEST_TEMPLATE_URL": template(migrated=True).url}
    return {**given, "TEST_POSTGRES": "given", "TEST_BROKER": "embedded", "CI": ""}


@pytest.mark.parametrize("guard", [one for one in GUARDS if not one.real_broker], ids=lambda guard: guard.name)
def test_mutant_of_a_guard_fails_its_tests(guard: Guard, sandbox: Sandbox, environment: dict[str, str]) -> None:
    notice(guard, sandbox, environment)


@pytest.mark.real_broker
@pytest.mark.parametrize("guard", [one for one in GUARDS if one.real_broker], ids=lambda guard: guard.name)
def test_mutant_of_a_guard_fails_its_tests_with_a_real_broker(
    guard: Guard, sandbox: Sandbox, environment: dict[str, str], kafka_bootstrap: str
) -> None:
    notice(guard, sandbox, {**environment, "TEST_BROKER": "given", "TEST_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap})


def notice(guard: Guard, sandbox: Sandbox, environment: dict[str, str]) -> None:
    """Check that all tests of a guard fail without it."""
    if "/migrations/" in guard.path:
        environment = {name: value for name, value in environment.items() if name != "TEST_TEMPLATE_URL"}
    change = guard.path, guard.mutant((REPOSITORY / guard.path).read_text())
    results = sandbox.run(guard.tests, environment, change=change)
    if results is None:
        return  # a test that hangs without the guard has noticed as well
    assert results.keys() == set(guard.tests)
    assert set(results.values()) == {"failed"}, results
