"""Machine-readable descriptions of the topics: a JSON Schema per type of event, and an AsyncAPI document. They are
generated from the models in shared/contracts/events.py and watermark.py. `python -m services.relay.schemas FOLDER`
writes them to files."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from shared.contracts import watermark
from shared.contracts.events import EVENTS, SOURCE, TOPIC
from shared.contracts.watermark import WATERMARK, OrderWatermark
from shared.process.build import VERSION

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"  # the version of AsyncAPI's description of Kafka
_UUID = {"type": "string", "format": "uuid"}
MODELS: Mapping[str, type[BaseModel]] = {**EVENTS, WATERMARK: OrderWatermark}


class _ForReaders(GenerateJsonSchema):
    """Generates schemas for readers. Unknown fields are allowed, because fields may be added. A field that does not
    apply is omitted from an event, never null. Titles that only repeat a field's name are omitted."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = schema["schema"]
        if schema.get("default", ...) is None and inner["type"] == "nullable":
            return self.generate_inner(inner["schema"])
        return super().default_schema(schema)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        found.pop("additionalProperties", None)
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the signature is the library's
        return False


def schema_of(type_: str) -> Schema:
    """Return the JSON Schema of an event's data. Raises KeyError for an unknown type."""
    found = MODELS[type_].model_json_schema(schema_generator=_ForReaders)
    return {"$schema": DIALECT, **found, "title": type_}


def schemas() -> Mapping[str, Schema]:
    """Return all schemas by type."""
    return {type_: schema_of(type_) for type_ in MODELS}


def asyncapi(topic: str, version: str) -> Schema:
    """Return the AsyncAPI document of a topic that this version publishes to."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in MODELS.values()],
        schema_generator=_ForReaders,
        ref_template="#/components/schemas/{model}",
    )
    channel, watermarks = "#/channels/orders", "#/channels/watermarks"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Order events",
            "version": version,
            "description": "What became of orders. Per order events come in sequence; types and optional fields are "
            "only ever added within v1.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "orders": {
                "address": topic,
                "description": "Partitioned by key, the order's id: all events of an order are in one partition.",
                "messages": {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in EVENTS},
                "bindings": {"kafka": {"topic": topic, "bindingVersion": KAFKA_BINDING}},
            },
            "watermarks": {
                "address": f"{topic}.watermarks",
                "description": "One partition, compacted: whoever comes late finds the newest one.",
                "messages": {WATERMARK: {"$ref": f"#/components/messages/{WATERMARK}"}},
                "bindings": {"kafka": {"topic": f"{topic}.watermarks", "bindingVersion": KAFKA_BINDING}},
            },
        },
        "operations": {
            "publish": {
                "action": "send",
                "channel": {"$ref": channel},
                "summary": "The relay publishes every event that was committed with its order.",
                "messages": [{"$ref": f"{channel}/messages/{type_}"} for type_ in EVENTS],
            },
            "announce": {
                "action": "send",
                "channel": {"$ref": watermarks},
                "summary": "The relay announces up to when the events are complete: every few seconds while "
                "that changes, else once a minute.",
                "messages": [{"$ref": f"{watermarks}/messages/{WATERMARK}"}],
            },
        },
        "components": {
            "messages": {
                **{type_: _message(type_, model) for type_, model in EVENTS.items()},
                WATERMARK: _watermark_message(topic),
            },
            "schemas": definitions["$defs"],
        },
    }


def _message(type_: str, model: type[BaseModel]) -> Schema:
    return {
        **_common(type_, model),
        "headers": _headers(type_),
        "bindings": {"kafka": {"key": {**_UUID, "description": "order_id"}, "bindingVersion": KAFKA_BINDING}},
    }


def _watermark_message(topic: str) -> Schema:
    own = {
        "ce_source": {"const": watermark.SOURCE},
        "ce_time": {"type": "string", "format": "date-time", "description": "up_to"},
        "ce_subject": {"const": topic},
    }
    left_out = {"ce_sequence", "ce_traceparent", "traceparent"}
    found = _headers(WATERMARK)
    properties = {name: schema for name, schema in found["properties"].items() if name not in left_out}
    properties |= {name: {"type": "string", **schema} for name, schema in own.items()}
    return {
        **_common(WATERMARK, OrderWatermark),
        "headers": {"type": "object", "properties": properties, "required": list(properties)},
        "bindings": {"kafka": {"key": {"type": "string", "const": topic}, "bindingVersion": KAFKA_BINDING}},
    }


def _common(type_: str, model: type[BaseModel]) -> Schema:
    return {
        "name": type_,
        "summary": model.__doc__,
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
    }


def _headers(type_: str) -> Schema:
    """Return the schema of the headers: CloudEvents 1.0 in Kafka's binary mode, as records.py writes them."""
    properties: dict[str, Schema] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {**_UUID, "description": "the event's own; the same whenever it is sent"},
        "ce_source": {"const": SOURCE},
        "ce_type": {"const": type_},
        "ce_time": {"type": "string", "format": "date-time", "description": "when the order changed"},
        "ce_subject": {**_UUID, "description": "the order's id"},
        "ce_sequence": {"type": "string", "pattern": "^[0-9]{20}$", "description": "number within its order, from 1"},
        "ce_traceparent": {"type": "string", "description": "W3C trace context, if there was one"},
        "traceparent": {"type": "string", "description": "W3C trace context of the publishing, if it is recorded"},
        "content-type": {"const": "application/json"},
    }
    properties = {name: {"type": "string", **schema} for name, schema in properties.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if not name.endswith("traceparent")],
    }


def files(version: str) -> Mapping[str, str]:
    """Return the text of each file under docs/schemas, by name."""
    found = {f"{type_}.json": schema for type_, schema in schemas().items()}
    found["asyncapi.json"] = asyncapi(TOPIC, version)
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in found.items()}


def main() -> None:
    """Write the files. Exit status: 0 done, 2 the folder can't be written to."""
    parser = argparse.ArgumentParser(prog="python -m services.relay.schemas", description="Write the events' schemas.")
    parser.add_argument("folder", type=Path, help="where to; made if it is missing")
    folder = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files(VERSION).items():
            (folder / name).write_text(text)
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
