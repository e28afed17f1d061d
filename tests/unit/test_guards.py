"""The fixed set of guards is up to date: each guard is in its file, and each test that must fail exists."""

import re
from pathlib import Path

import pytest

from tests.mutation.guard import REPOSITORY, Guard
from tests.mutation.guards import GUARDS


def test_each_guard_has_a_name_of_its_own() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_guard_is_in_its_file_and_its_mutant_compiles(guard: Guard) -> None:
    text = (REPOSITORY / guard.path).read_text()
    mutant = guard.mutant(text)
    assert mutant != text
    if guard.path.endswith(".py"):
        compile(mutant, guard.path, "exec")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_tests_of_a_guard_exist(guard: Guard) -> None:
    assert guard.tests
    for test in guard.tests:
        path, _, name = test.partition("::")
        function = re.escape(name.split("[")[0])
        assert re.search(rf"^(async )?def {function}\(", Path(REPOSITORY, path).read_text(), re.M), test
