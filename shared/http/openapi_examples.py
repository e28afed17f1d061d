"""Makes the example of a body from its schema and the example values of its fields."""

from collections.abc import Mapping
from typing import Any

from shared.contracts.examples import OPEN_MODE_ONLY, VALUES

# Stands for a text that has no example of its own; a test finds it.
UNKNOWN = "…"
_BY_FORMAT = {"uuid": "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11", "date-time": "2026-01-05T09:30:00Z"}
_BY_TYPE: Mapping[str, Any] = {"integer": 1, "number": 1.5, "boolean": False, "null": None, "object": {}}


class Examples:
    """The examples of a document. `schemas`: its models by name. `mode`: of the authenticator."""

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]], mode: str) -> None:
        self._schemas = schemas
        self._left_out = OPEN_MODE_ONLY if mode != "open" else frozenset[str]()

    def of_model(self, name: str, status: int = 200) -> Any:
        """Return the example of a model; `status`: of the answer that has it."""
        for known in (f"{name} {status}", name):
            if known in VALUES:
                return VALUES[known]
        schema = self._schemas[name]
        if "properties" not in schema:
            return self._of_schema(schema)
        required = schema.get("required", ())
        return {
            field: self._of_field(name, field, part)
            for field, part in schema["properties"].items()
            if (field in required or f"{name}.{field}" in VALUES) and f"{name}.{field}" not in self._left_out
        }

    def _of_field(self, model: str, field: str, schema: Mapping[str, Any]) -> Any:
        if f"{model}.{field}" in VALUES:
            return VALUES[f"{model}.{field}"]
        if "$ref" not in schema and field in VALUES and VALUES[field] in schema.get("enum", [VALUES[field]]):
            return VALUES[field]
        return self._of_schema(schema)

    def _of_schema(self, schema: Mapping[str, Any]) -> Any:
        if "$ref" in schema:
            return self.of_model(schema["$ref"].rpartition("/")[2])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for choice in schema.get("anyOf", ()):
            if choice.get("type") != "null":
                return self._of_schema(choice)
        if schema.get("type") == "array":
            return [self._of_schema(schema.get("items", {}))]
        if schema.get("format") in _BY_FORMAT:
            return _BY_FORMAT[schema["format"]]
        return _BY_TYPE.get(schema.get("type", ""), UNKNOWN)
