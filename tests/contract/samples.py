"""Makes values that fit a JSON Schema of our models: one for each alternative that it has."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any
from uuid import UUID

Schema = Mapping[str, Any]

_TEXTS = {"uuid": str(UUID(int=7)), "date-time": "2026-01-31T12:00:00Z"}
_SIMPLE: Mapping[str, Any] = {"boolean": True, "number": 1.5, "null": None}


def samples(document: Schema, *, optional: bool = True, without: Collection[str] = ()) -> list[Any]:
    """Return values that fit a schema, together with every alternative in it.

    `optional`: with optional members. `without`: the names of models that are left out where there are others.
    """
    known = {**document, "$defs": {name: one for name, one in document.get("$defs", {}).items() if name not in without}}
    return list(_values(known, known, optional))


def _values(schema: Schema, document: Schema, optional: bool) -> Iterator[Any]:
    if "$ref" in schema:
        definition = document["$defs"].get(schema["$ref"].rpartition("/")[2])
        if definition is not None:
            yield from _values(definition, document, optional)
    elif "const" in schema or "enum" in schema:
        yield schema["const"] if "const" in schema else schema["enum"][0]
    elif parts := schema.get("anyOf") or schema.get("oneOf"):
        for part in parts:
            yield from _values(part, document, optional)
    elif schema.get("type") == "array":
        # All alternatives in one list: what the last one has must not depend on the first.
        yield list(_values(schema.get("items", {}), document, optional))
    elif schema.get("type") == "object":
        yield from _objects(schema, document, optional)
    elif schema.get("type") == "string":
        yield _TEXTS.get(schema.get("format", ""), "12")  # digits: some texts stand for large integers
    elif schema.get("type") == "integer":
        yield schema.get("minimum", 1)
    else:
        yield _SIMPLE.get(schema.get("type", "null"))


def _objects(schema: Schema, document: Schema, optional: bool) -> Iterator[dict[str, Any]]:
    """Yield as many objects as the member with the most alternatives has, so that each of them is in one."""
    names = schema.get("properties", {}) if optional else schema.get("required", ())
    members = {name: list(_values(schema["properties"][name], document, optional)) for name in names}
    for place in range(max(map(len, members.values()), default=1)):
        yield {name: values[min(place, len(values) - 1)] for name, values in members.items()}
