"""Shows an AsyncAPI 3 document as a page: each channel with its messages, their headers and fields."""

import html
from collections.abc import Iterator, Mapping
from typing import Any

from shared.http.pages import marked_up, page

Schema = Mapping[str, Any]
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "pattern {}",
}


def asyncapi_page(document: Schema, path: str) -> str:
    """Return the page; `path`: where the document is for machines."""
    info = document["info"]
    link = f'<a href="{html.escape(path)}">{html.escape(path)}</a>'
    parts = [f"<p>Version {html.escape(info['version'])}. {marked_up(info['description'])} For machines: {link}.</p>"]
    for name, channel in document["channels"].items():
        parts += _channel(name, channel, document)
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts += [f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3>', *_described(schema), _fields(schema)]
    return page(info["title"], "\n".join(parts))


def _channel(name: str, channel: Schema, document: Schema) -> Iterator[str]:
    yield f"<h2>{html.escape(channel['address'])}</h2>"
    yield from _described(channel)
    for operation in document["operations"].values():
        if operation["channel"]["$ref"] == f"#/channels/{name}":
            yield f"<p>{marked_up(operation['summary'])}</p>"
    for reference in channel["messages"].values():
        message = _resolved(reference, document)
        yield f"<h3>{html.escape(message['name'])}</h3>"
        yield f"<p>{marked_up(message['summary'])} The data, {html.escape(message['contentType'])}: "
        yield f"{_type(message['payload'])}. The key: {_type(message['bindings']['kafka']['key'])}.</p>"
        yield _fields(message["headers"], "header")


def _resolved(reference: Schema, document: Schema) -> Schema:
    found: Any = document
    for part in reference["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Schema = found
    return resolved


def _described(thing: Schema) -> list[str]:
    return [f"<p>{marked_up(thing['description'])}</p>"] if "description" in thing else []


def _fields(schema: Schema, what: str = "field") -> str:
    """Return a table of the properties of an object; for another schema, its type."""
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    required = schema.get("required", ())
    rows = "\n".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{_type(part)}</td>"
        f"<td>{'always' if name in required else 'may be missing'}</td>"
        f"<td>{marked_up(part.get('description', ''))}</td></tr>"
        for name, part in schema["properties"].items()
    )
    return f"<table>\n<tr><th>{what}</th><th>type</th><th>present</th><th>meaning</th></tr>\n{rows}\n</table>"


def _type(schema: Schema) -> str:
    """Return a schema's type and bounds as HTML; another schema of the document is a link."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "const" in schema:
        return f"<code>{html.escape(str(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{html.escape(str(value))}</code>" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    kind = html.escape(schema.get("format", schema.get("type", "anything")))
    if schema.get("type") == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    bounds = [html.escape(text.format(schema[name])) for name, text in _BOUNDS.items() if name in schema]
    return ", ".join([kind, *bounds])
