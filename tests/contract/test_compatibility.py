"""A reader built for version 1 of the events can read today's events, and today's reader those of version 1."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from services.relay.schemas import MODELS, asyncapi, files, schema_of
from shared.contracts.events import TOPIC
from shared.contracts.watermark import WATERMARK
from shared.process.build import VERSION
from tests.contract.compatibility import breaks

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / "golden" / "v1"
PUBLISHED = FOLDER.parents[1] / "docs" / "schemas"
EVENT_FILES = sorted((GOLDEN / "events").glob("*.json"))
TYPES = sorted(path.stem for path in (GOLDEN / "schemas").glob("order.*.json"))
CHECKER = Draft202012Validator.FORMAT_CHECKER


def name(path: Path) -> str:
    return path.stem


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_published_schemas_equal_the_models() -> None:
    """Check the checked-in files; `make schemas` writes them again."""
    assert {path.name: path.read_text() for path in PUBLISHED.iterdir()} == files(VERSION)


def test_every_type_of_version_1_is_still_there_and_has_a_golden_event() -> None:
    assert set(TYPES) == set(MODELS)
    assert {read(path)["headers"]["ce_type"] for path in EVENT_FILES} == set(MODELS)


@pytest.mark.parametrize("path", EVENT_FILES, ids=name)
def test_a_golden_event_fits_today_s_schema_and_model(path: Path) -> None:
    event = read(path)
    type_ = event["headers"]["ce_type"]
    Draft202012Validator(schema_of(type_), format_checker=CHECKER).validate(event["data"])
    MODELS[type_].model_validate_json(json.dumps(event["data"]))
    message = asyncapi(TOPIC, VERSION)["components"]["messages"][type_]
    Draft202012Validator(message["headers"], format_checker=CHECKER).validate(event["headers"])
    key = message["bindings"]["kafka"]["key"]
    Draft202012Validator(key, format_checker=CHECKER).validate(event["key"])


@pytest.mark.parametrize("type_", TYPES)
def test_a_schema_of_version_1_has_only_gained_optional_fields(type_: str) -> None:
    assert breaks(read(GOLDEN / "schemas" / f"{type_}.json"), schema_of(type_)) == []


@pytest.mark.parametrize("type_", TYPES)
def test_headers_have_only_gained_optional_ones_and_the_topic_is_the_same(type_: str) -> None:
    # Watermarks came later, with their own golden document.
    document = "asyncapi-watermarks.json" if type_ == WATERMARK else "asyncapi.json"
    old, new = read(GOLDEN / "schemas" / document), asyncapi(TOPIC, VERSION)
    for channel in old["channels"]:
        assert old["channels"][channel]["address"] == new["channels"][channel]["address"]
    before, now = (document["components"]["messages"][type_] for document in (old, new))
    assert breaks(before["headers"], now["headers"]) == []
    assert before["bindings"] == now["bindings"]


TransitionRequest = Callable[[dict[str, Any]], object]
BREAKING: dict[str, tuple[TransitionRequest, str]] = {
    "a field is gone": (lambda schema: schema["properties"].pop("user_id"), "/user_id is gone"),
    "a field has another type": (
        lambda schema: schema["properties"]["total_amount"].update(type="string"),
        "/total_amount: type was integer, is string",
    ),
    "a field may be null": (
        lambda schema: schema["properties"]["user_id"].update(type=["string", "null"]),
        "/user_id: type was string, is ['string', 'null']",
    ),
    "a value was renamed": (
        lambda schema: schema["properties"]["status"].update(const="SETTLED"),
        "/status: const was PAID, is SETTLED",
    ),
    "a bound was drawn": (
        lambda schema: schema["properties"]["lines"].update(maxItems=10),
        "/lines: maxItems was None, is 10",
    ),
    "a field is newly required": (
        lambda schema: schema["required"].append("coupon_id"),
        "/coupon_id is required now",
    ),
    "a field can be missing": (
        lambda schema: schema["required"].remove("paid_at"),
        "/paid_at is not required any more",
    ),
    "a field of a line is gone": (
        lambda schema: schema["$defs"]["PricedLine"]["properties"].pop("quantity"),
        "/lines/*/quantity is gone",
    ),
    "unknown fields are refused": (
        lambda schema: schema.update(additionalProperties=False),
        ": additionalProperties was None, is False",
    ),
}


@pytest.mark.parametrize("change", BREAKING)
def test_a_breaking_change_is_found(change: str) -> None:
    old = schema_of("order.paid.v1")
    new = copy.deepcopy(old)
    apply, expected = BREAKING[change]
    apply(new)
    assert expected in breaks(old, new)


WATERMARK_BREAKING: dict[str, tuple[TransitionRequest, str]] = {
    "the timestamp has another name": (lambda schema: schema["properties"].pop("up_to"), "/up_to is gone"),
    "offsets are text": (
        lambda schema: schema["properties"]["partitions"]["additionalProperties"].update(type="string"),
        "/partitions: additionalProperties was {'minimum': 0, 'type': 'integer'}, is {'minimum': 0, 'type': 'string'}",
    ),
    "exceptions are optional": (
        lambda schema: schema["required"].remove("missing"),
        "/missing is not required any more",
    ),
}


@pytest.mark.parametrize("change", WATERMARK_BREAKING)
def test_a_breaking_change_of_the_watermark_is_found(change: str) -> None:
    new = copy.deepcopy(schema_of(WATERMARK))
    apply, expected = WATERMARK_BREAKING[change]
    apply(new)
    assert expected in breaks(schema_of(WATERMARK), new)


def test_further_optional_field_and_other_wording_are_compatible() -> None:
    old = schema_of("order.paid.v1")
    new = copy.deepcopy(old)
    new["properties"]["channel"] = {"type": "string"}
    new["$defs"]["PricedLine"]["properties"]["tax_amount"] = {"type": "integer"}
    new["description"] = "CommandResult otherwise."
    assert breaks(old, new) == []


@pytest.mark.parametrize("type_", sorted(MODELS))
def test_a_published_schema_is_json_schema_2020_12(type_: str) -> None:
    Draft202012Validator.check_schema(schema_of(type_))


def test_the_asyncapi_document_is_valid_and_the_check_of_it_finds_errors() -> None:
    validator = Draft7Validator(read(FOLDER / "asyncapi" / "3.0.0.json"))
    document = asyncapi(TOPIC, VERSION)
    assert [error.message for error in validator.iter_errors(document)] == []
    document["operations"]["publish"]["action"] = "shout"
    document["channels"]["orders"]["bindings"]["kafka"]["partitions"] = "four"
    found = {next(iter(error.absolute_path)) for error in validator.iter_errors(document)}
    assert found == {"operations", "channels"}


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi(TOPIC, VERSION)

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    assert references(document)
    for reference in references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert found


def test_the_schemas_of_the_asyncapi_document_are_those_of_the_files() -> None:
    document = asyncapi(TOPIC, VERSION)
    for type_ in MODELS:
        payload = document["components"]["messages"][type_]["payload"]
        shared = {"$ref": payload["$ref"], "components": document["components"]}
        assert breaks(schema_of(type_), shared) == []
        assert breaks(shared, schema_of(type_)) == []
