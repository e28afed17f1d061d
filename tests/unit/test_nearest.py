"""The map from modules to tests for sampled mutants names only existing files."""

import pytest

from tests.mutation import nearest
from tests.mutation.accepted import ACCEPTED, AcceptedMutant
from tests.mutation.guard import REPOSITORY
from tests.mutation.sample import files


@pytest.mark.parametrize("place", nearest.NEAREST)
def test_module_and_its_tests_exist(place: str) -> None:
    missing = [path for path in (place, *nearest.NEAREST[place]) if not (REPOSITORY / path).exists()]
    assert not missing


def test_each_sampled_file_has_tests() -> None:
    made = files()
    assert {path.split("/")[0] for path in made} == {"services", "shared", "deploy"}
    assert all(nearest.tests_for(path) for path in made)


@pytest.mark.parametrize("mutant", ACCEPTED, ids=lambda mutant: f"{mutant.path} {mutant.function}")
def test_accepted_mutant_is_in_its_function_and_has_a_reason(mutant: AcceptedMutant) -> None:
    lines = " ".join((REPOSITORY / mutant.path).read_text().split())
    assert mutant.before in lines
    assert mutant.why
