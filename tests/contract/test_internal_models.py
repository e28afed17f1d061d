"""What services send one another: a reader ignores members that it does not know, because the sender may be newer."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from shared.contracts import books, commands
from tests.contract.samples import samples

MODELS = [
    model
    for module in (commands, books)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__
]
CASES = [(model, sample) for model in MODELS for sample in samples(model.model_json_schema())]
LATER = "member_of_a_later_version"
Path = tuple[str | int, ...]


def name(case: Any) -> str:
    return case.__name__ if isinstance(case, type) else ""


def read(model: type[BaseModel], sample: Any) -> BaseModel:
    """Return what a service reads: queries come as texts, everything else as JSON."""
    if issubclass(model, books.HoldsQuery):
        return model.model_validate({member: str(value) for member, value in sample.items() if value is not None})
    return model.model_validate_json(orjson.dumps(sample))


def places(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the path to every model inside a model."""
    if isinstance(value, BaseModel):
        yield path
        for member, inner in value:
            yield from places(inner, (*path, member))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


@pytest.mark.parametrize(("model", "sample"), CASES, ids=name)
def test_a_reader_ignores_members_of_a_later_version_at_every_depth(model: type[BaseModel], sample: Any) -> None:
    known = read(model, sample)
    for path in places(known):
        newer = deepcopy(sample)
        place = newer
        for step in path:
            place = place[step]
        place[LATER] = {"more": [1]}
        assert read(model, newer) == known, path
