"""OpenAPI 3.1, generated from the routes and their wire models."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from shared.contracts.examples import VALUES
from shared.contracts.scopes import Scope
from shared.contracts.types import Id
from shared.http.openapi_answers import HEADERS, PROBLEM, media, responses
from shared.http.openapi_examples import Examples
from shared.http.routes import Route
from shared.identity.callers import PUBLIC

_PARAMETER = re.compile(r"\{(\w+)(:uuid)?\}")
# All of a path but the word by which viewers group the calls: `orders` of /v1/orders/{order_id}.
_SUBJECT = re.compile(r"^/(admin/)?(v1/)?|(?<=\w)[/.].*$")
_UUID = {"type": "string", "format": "uuid"}
_ID = TypeAdapter(Id).json_schema()
# For `json_schema_extra` of a field that clients may send in open mode only.
OPEN_MODE_ONLY: dict[str, Any] = {"x-open-mode-only": True}
_EVERY_CALL = (
    "Every error is a problem (RFC 9457), whose `type` is a link to a page: when it occurs, whether a retry helps, and "
    "what to do; [all of them](/problems). The services take over the headers `X-Request-Id` (1 to 128 visible ASCII "
    "characters) and `traceparent` (W3C), or make them. A gateway may also answer 429 `too-many-requests`."
)


def document(service: str, version: str, description: str, routes: Sequence[Route], mode: str) -> dict[str, Any]:
    """Return the OpenAPI document of a service. `mode`: of the authenticator."""
    routes = [route for route in routes if not route.is_page]
    models = {model for route in routes for model in (route.body, route.query, *route.replies.values()) if model}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    schemas = {name: _in_mode(schema, mode) for name, schema in definitions.get("$defs", {}).items()}
    examples = Examples(schemas, mode)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_template(route.path), {})[route.method.lower()] = _operation(route, schemas, mode, examples)
    components: dict[str, Any] = {"schemas": {**schemas, "Problem": PROBLEM}, "headers": HEADERS}
    if mode != "open":
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{service} service",
            "version": version,
            "description": f"{description}\n\n{_EVERY_CALL}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": components,
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


def _operation(route: Route, schemas: dict[str, Any], mode: str, examples: Examples) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _UUID if is_uuid else _ID,
            **({"example": VALUES[name]} if name in VALUES else {}),
        }
        for name, is_uuid in _PARAMETER.findall(route.path)
    ]
    if route.query:
        schema = schemas[route.query.__name__]
        parameters += [
            _query_parameter(name, part, required=name in schema.get("required", ()))
            for name, part in schema["properties"].items()
        ]
    parameters += [
        {"name": name, "in": "header", "required": False, **described} for name, described in route.headers.items()
    ]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{_template(route.path)}").strip("_"),
        "tags": [*route.tags] or [_SUBJECT.sub("", route.path)],
        "parameters": parameters,
        "responses": responses(route, mode, examples),
    }
    if route.policy is not PUBLIC and mode != "open":
        operation["security"] = [{"token": [route.policy.value] if isinstance(route.policy, Scope) else []}]
    if route.body:
        content = media(route.body.__name__, examples)
        operation["requestBody"] = {"required": bool(route.body.model_fields), "content": content}
    return operation


def _query_parameter(name: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    """Return a parameter. What is null in the model is left out in a query, which has no way to write null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    about = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "description")}
    if schema.get("default") is not None:
        about["default"] = schema["default"]
    if choices:
        about |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    description = about.pop("description", schema.get("description"))
    return {
        "name": name,
        "in": "query",
        "required": required,
        **({"description": description} if description else {}),
        "schema": about,
    }
