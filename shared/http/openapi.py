"""OpenAPI 3.1, generated from the routes and their wire models, and a page that shows it."""

import html
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from shared.contracts.scopes import Scope
from shared.contracts.types import Id
from shared.http import problems
from shared.http.routes import Route
from shared.identity.callers import PUBLIC, Forbidden, Unauthenticated
from shared.refusals import Refusal, Unavailable

_PARAMETER = re.compile(r"\{(\w+)(:uuid)?\}")
_UUID = {"type": "string", "format": "uuid"}
_ID = TypeAdapter(Id).json_schema()
# For `json_schema_extra` of a field that clients may send in open mode only.
OPEN_MODE_ONLY: dict[str, Any] = {"x-open-mode-only": True}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem; refusals add members of their own.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/validation-failed"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
    },
}


def document(service: str, version: str, description: str, routes: Sequence[Route], mode: str) -> dict[str, Any]:
    """Return the OpenAPI document of a service. `mode`: of the authenticator."""
    models = {model for route in routes for model in (route.body, route.query, *route.replies.values()) if model}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    schemas = {name: _in_mode(schema, mode) for name, schema in definitions.get("$defs", {}).items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_template(route.path), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{service} service", "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _in_mode(schema: dict[str, Any], mode: str) -> dict[str, Any]:
    """Return a model's schema without the fields that don't exist in this mode."""
    if "properties" not in schema:
        return schema
    parts = {
        name: part for name, part in schema["properties"].items() if mode == "open" or "x-open-mode-only" not in part
    }
    for part in parts.values():
        part.pop("x-open-mode-only", None)
    return {**schema, "properties": parts}


def _template(path: str) -> str:
    return _PARAMETER.sub(r"{\1}", path)


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _UUID if is_uuid else _ID}
        for name, is_uuid in _PARAMETER.findall(route.path)
    ]
    if route.query:
        schema = schemas[route.query.__name__]
        parameters += [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": part}
            for name, part in schema["properties"].items()
        ]
    parameters += [
        {"name": name, "in": "header", "required": False, **described} for name, described in route.headers.items()
    ]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{_template(route.path)}").strip("_"),
        "tags": list(route.tags),
        "parameters": parameters,
        "responses": _responses(route),
    }
    if route.policy is not PUBLIC:
        operation["security"] = [{"token": [route.policy.value] if isinstance(route.policy, Scope) else []}]
    if route.body:
        operation["requestBody"] = {"required": bool(route.body.model_fields), "content": _json(route.body)}
    return operation


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": route.summary, **({"content": _json(model)} if model else {})}
        for status, model in route.replies.items()
    }
    refusals: list[type[Refusal | Unavailable]] = [*route.refusals, problems.BadRequest, Unavailable]
    if route.policy is not PUBLIC:
        refusals += [Unauthenticated, Forbidden] if isinstance(route.policy, Scope) else [Unauthenticated]
    if route.body:
        refusals += [
            problems.MalformedBody,
            problems.ValidationFailed,
            problems.RequestTimeout,
            problems.BodyTooLarge,
            problems.UnsupportedMediaType,
        ]
    elif route.query:
        refusals.append(problems.ValidationFailed)
    for status in sorted({refusal.status for refusal in refusals}):
        texts = [f"`{r.slug}`: {problems.title(r)}" for r in refusals if r.status == status]
        responses[str(status)] = {
            "description": "; ".join(texts),
            "content": {problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}}
h2{{font-size:1rem;margin:2rem 0 .3rem;font-family:ui-monospace,monospace}}
table{{border-collapse:collapse;width:100%}}
td{{border-top:1px solid #d8dee4;padding:.3rem .6rem .3rem 0;vertical-align:top}}
code{{font-family:ui-monospace,monospace;font-size:.9em}}</style>
<h1>{title}</h1><p>{description} The machine-readable form is <a href="/openapi.json">/openapi.json</a>.</p>
{calls}</html>"""


def page(spec: dict[str, Any]) -> str:
    """Return the document as one HTML page without scripts or external resources."""
    calls = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            calls.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}</p>")
            calls.append(_table(operation))
    info = spec["info"]
    return _PAGE.format(
        title=html.escape(info["title"]), description=html.escape(info["description"]), calls="\n".join(calls)
    )


def _table(operation: dict[str, Any]) -> str:
    rows = [(p["in"], p["name"], p.get("description", "")) for p in operation["parameters"]]
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        rows.append(("body", reference.rsplit("/", 1)[1], ""))
    rows += [("answers", status, response["description"]) for status, response in operation["responses"].items()]
    cells = "".join(
        f"<tr><td>{html.escape(kind)}<td><code>{html.escape(name)}</code><td>{html.escape(text)}"
        for kind, name, text in rows
    )
    return f"<table>{cells}</table>"
