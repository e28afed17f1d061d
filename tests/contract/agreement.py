"""Compares two JSON Schemas: whether a reader takes everything that a writer may send."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


def disagreements(writer: Schema, reader: Schema, path: str = "") -> Iterator[str]:
    """Yield a line for each thing that the writer may send and the reader does not take.

    Both must have their references resolved. Types, enumerations, formats and the names of fields are compared, not
    bounds. An unknown field counts, also if the reader ignores it: it should know all of them.
    """
    for sent in _alternatives(writer):
        taken = [one for one in _alternatives(reader) if _kind(one) == _kind(sent)]
        if not taken:
            yield f"{path}: {_kind(sent)} is not taken"
        elif _kind(sent) == "object":
            yield from _of_objects(sent, taken[0], path)
        elif _kind(sent) == "array":
            yield from disagreements(sent["items"], taken[0]["items"], f"{path}/*")
        elif not any(_covers(one, sent) for one in taken):
            yield f"{path}: {dict(sent)} is not taken"


def resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with every reference replaced by its target among the definitions."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            return resolved(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {name: resolved(value, definitions) for name, value in schema.items() if name != "$defs"}
    return [resolved(value, definitions) for value in schema] if isinstance(schema, list) else schema


def _of_objects(sent: Schema, taken: Schema, path: str) -> Iterator[str]:
    has, knows = sent["properties"], taken["properties"]
    yield from (f"{path}/{name} is unknown to the reader" for name in sorted(has.keys() - knows.keys()))
    for name in sorted(set(taken.get("required", ())) - set(sent.get("required", ()))):
        yield f"{path}/{name} may be missing"
    for name in sorted(has.keys() & knows.keys()):
        yield from disagreements(has[name], knows[name], f"{path}/{name}")


def _alternatives(schema: Schema) -> Sequence[Schema]:
    # Beside properties, `anyOf` only narrows an object.
    if "anyOf" in schema and "properties" not in schema:
        return [one for part in schema["anyOf"] for one in _alternatives(part)]
    return [schema]


def _kind(schema: Schema) -> str:
    return str(schema["type"])


def _covers(reader: Schema, writer: Schema) -> bool:
    values, known = _values(writer), _values(reader)
    if known is not None:
        return values is not None and values <= known
    return reader.get("format") in (None, writer.get("format"))


def _values(schema: Schema) -> set[Any] | None:
    if "const" in schema:
        return {schema["const"]}
    return set(schema["enum"]) if "enum" in schema else None
