"""Compares a JSON Schema with an earlier version: finds changes that would break a program built for either."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

ANNOTATIONS = {"title", "description", "examples", "default", "$schema", "$defs", "$comment", "components"}
BY_PARTS = {"properties", "required", "items"}


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return a line for each change except the allowed one: a further property that is not required.

    Every other change breaks a reader. A wider schema breaks a reader built for the old version. A narrower schema
    breaks a reader built for the new version that reads old events on the topic.
    """
    return list(_differences("", _resolved(old, old), _resolved(new, new)))


def _differences(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, now = old.get("properties", {}), new.get("properties", {})
    for name in sorted(before):
        if name not in now:
            yield f"{path}/{name} is gone"
        else:
            yield from _differences(f"{path}/{name}", before[name], now[name])
    was, is_ = set(old.get("required", ())), set(new.get("required", ()))
    yield from (f"{path}/{name} is required now" for name in sorted(is_ - was))
    yield from (f"{path}/{name} is not required any more" for name in sorted(was - is_))
    if ("items" in old) != ("items" in new):
        yield f"{path}: items was {old.get('items')}, is {new.get('items')}"
    elif "items" in old:
        yield from _differences(f"{path}/*", old["items"], new["items"])
    for keyword in sorted((old.keys() | new.keys()) - ANNOTATIONS - BY_PARTS):
        if old.get(keyword) != new.get(keyword):
            yield f"{path}: {keyword} was {old.get(keyword)}, is {new.get(keyword)}"


def _resolved(schema: Any, document: Schema) -> Any:
    """Return the schema with every reference into its document replaced by its target."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            found: Any = document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return _resolved({**found, **{name: value for name, value in schema.items() if name != "$ref"}}, document)
        return {name: _resolved(value, document) for name, value in schema.items() if name != "$defs"}
    if isinstance(schema, list):
        return [_resolved(value, document) for value in schema]
    return schema
