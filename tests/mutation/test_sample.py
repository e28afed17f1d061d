"""The sampler distinguishes mutants that a test notices, that no test notices, and that cannot be loaded."""

import time

import pytest

from tests.mutation.guard import REPOSITORY
from tests.mutation.sample import Mutant, Results, unsure, work

PATH = "shared/process/tasks.py"
TEXT = (REPOSITORY / PATH).read_text()
MUTANTS = {
    "killed": TEXT.replace("return True", "return False"),
    "not loadable": TEXT.replace("import asyncio", "import asyncio_is_missing"),
    "survived": f"{TEXT}\n",
}


@pytest.fixture(scope="module")
def results() -> Results:
    results = Results()
    mutants = [Mutant(PATH, None, 1, "", end, "", text) for end, text in MUTANTS.items()]
    work(iter(mutants), time.monotonic() + 60, {}, results)
    return results


def test_mutants_are_counted_by_their_end(results: Results) -> None:
    assert results.ends == dict.fromkeys(MUTANTS, 1)
    assert [mutant.before for mutant in results.survivors] == ["survived"]
    assert [mutant.before for killed in results.killers.values() for mutant in killed] == ["killed"]


def test_only_kills_by_tests_that_fail_on_the_original_are_unsure(results: Results) -> None:
    failing = "tests/unit/shared/test_concurrency.py::test_that_is_not_there"
    killers = {**results.killers, failing: results.survivors}
    assert unsure(Results(killers=killers), {}) == [(failing, results.survivors[0])]
