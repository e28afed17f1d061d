"""The page of the fields of all events, from their schemas."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.site.reference_pages.markdown import NOTE, code, table, wrapped

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
EVENTS = ("placed", "paid", "expired", "cancelled", "refunded")
Json = Mapping[str, Any]


def events() -> Iterator[str]:
    """Yield the lines of the page of the events' fields."""
    yield from (
        "# Fields of the events",
        NOTE,
        "",
        "The data of each event on `orders.v1`, from its [schema](../schemas). [Order events](../events.md) says when",
        "an event is published, and what its headers are. A field may be added at any time.",
        "",
        "## An order's events",
    )
    schemas = {name: json.loads((SCHEMAS / f"order.{name}.v1.json").read_text()) for name in EVENTS}
    yield from fields(schemas)
    watermark = json.loads((SCHEMAS / "order.watermark.v1.json").read_text())
    yield from definitions(schemas["placed"])
    yield from ("", "## The watermark", *fields({"watermark": watermark}))
    yield from definitions(watermark)


def definitions(schema: Json) -> Iterator[str]:
    """Yield the lines about the objects in a schema's data."""
    for name, definition in schema["$defs"].items():
        yield from ("", f"### {name}")
        if "description" in definition:
            yield from wrapped(definition["description"])
            yield ""
        yield from fields({name: definition})


def fields(schemas: Mapping[str, Json]) -> Iterator[str]:
    """Yield the table of the fields of similar objects, by the objects' names."""
    names = list(dict.fromkeys(name for schema in schemas.values() for name in schema["properties"]))
    rows = []
    for name in names:
        having = {one: schema["properties"][name] for one, schema in schemas.items() if name in schema["properties"]}
        kinds = list(dict.fromkeys(kind_of(field) for field in having.values()))
        always = [one for one in having if name in schemas[one].get("required", ())]
        if len(always) == len(schemas):
            present = "always"
        else:
            may = [one for one in having if one not in always]
            parts = [", ".join(always), f"may be in {'all' if len(may) == len(schemas) else ', '.join(may)}"]
            present = "; ".join(filter(None, parts))
        note = "; ".join(dict.fromkeys(field["description"] for field in having.values() if "description" in field))
        rows.append([code(name), " or ".join(kinds), present, note])
    yield from table(("field", "type", "present", "note"), rows)


def kind_of(field: Json) -> str:
    """Return the type of a field."""
    if "const" in field:
        return code(json.dumps(field["const"]))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if field["type"] == "array":
        return f"list of {kind_of(field['items'])}"
    if field["type"] == "object" and "additionalProperties" in field:
        return f"object, of {kind_of(field['additionalProperties'])}"
    if "maximum" in field and field["maximum"] == 2**63 - 1:
        return "integer, 0 to 2^63-1" if field.get("minimum") == 0 else "integer of 64 bits"
    limit = f", at least {field['minimum']}" if "minimum" in field else ""
    form = f", {field['format']}" if "format" in field else f" {code(field['pattern'])}" if "pattern" in field else ""
    return f"{field['type']}{form}{limit}"
