"""The sampled mutants' map of modules to tests names what is there."""

import pytest

from tests.mutation.guard import REPOSITORY
from tests.mutation.judged import JUDGED, Judged
from tests.mutation.nearest import NEAREST, nearest
from tests.mutation.sample import files


@pytest.mark.parametrize("place", NEAREST)
def test_place_and_its_tests_are_there(place: str) -> None:
    missing = [path for path in (place, *NEAREST[place]) if not (REPOSITORY / path).exists()]
    assert not missing


def test_files_of_which_mutants_are_made_have_tests() -> None:
    made = files()
    assert {path.split("/")[0] for path in made} == {"services", "shared", "deploy"}
    assert all(nearest(path) for path in made)


@pytest.mark.parametrize("judged", JUDGED, ids=lambda judged: f"{judged.path} {judged.function}")
def test_judged_line_is_there_and_has_a_reason(judged: Judged) -> None:
    lines = " ".join((REPOSITORY / judged.path).read_text().split())
    assert judged.before in lines
    assert judged.why
