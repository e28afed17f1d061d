"""Timestamps, UUIDs and numbers have only one notation, from every source."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings

from deploy.consumer import settings as consumer_settings
from shared.contracts.types import Query
from shared.notation import Timestamp, Uuid, parse_integer, parse_number, parse_timestamp, parse_uuid
from shared.process.settings import ServiceSettings, load

REPOSITORY = Path(__file__).parents[3]
ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NO_INTEGERS = ["", "1_0", "1.0", "1e3", "+1", " 1", "1 ", "1\n", "01", "-", "0x1", "١", "１", "²", "1,000", "true"]  # noqa: RUF001
NO_NUMBERS = [
    "",
    "1_0.5",
    ".5",
    "5.",
    "+1.5",
    " 1.5",
    "1.5 ",
    "01.5",
    "inf",
    "Infinity",
    "nan",
    "1e400",
    "١.٥",  # noqa: RUF001
    "0x1p3",
]


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("2030-01-01T12:00:00Z", NOON),
        ("2030-01-01t12:00:00z", NOON),
        ("2030-01-01T21:00:00+09:00", NOON),
        ("2030-01-01T12:00:00-00:00", NOON),
        ("2029-12-31T12:01:00-23:59", NOON),
        ("2030-01-02T11:59:00+23:59", NOON),
        ("2030-01-01T12:00:00.1Z", NOON + timedelta(microseconds=100_000)),
        ("2030-01-01T12:00:00.123456999999Z", NOON + timedelta(microseconds=123_456)),
        ("0002-01-01T00:00:00+23:59", datetime(2, 1, 1, tzinfo=timezone(timedelta(minutes=1439)))),
        (
            "9998-12-31T23:59:59.999999-23:59",
            datetime(9998, 12, 31, 23, 59, 59, 999_999, timezone(-timedelta(minutes=1439))),
        ),
        ("2028-02-29T12:00:00Z", datetime(2028, 2, 29, 12, tzinfo=UTC)),
    ],
)
def test_every_form_of_rfc_3339_is_a_timestamp(text: str, timestamp: datetime) -> None:
    assert parse_timestamp(text) == timestamp


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "0",
            "1893456000",
            "1893456000.5",
            "-1",
            "20300101",
            "20300101T120000Z",
            "2030-01-01",
            "2030-001T12:00:00Z",
        ),
        *(
            "2030-W01-1T12:00:00Z",
            "2030-01-01T12:00Z",
            "2030-01-01T12Z",
            "2030-01-01 12:00:00Z",
            "2030-01-01_12:00:00Z",
        ),
        *("2030-01-01T12:00:00", "2030-01-01T12:00:00+0900", "2030-01-01T12:00:00+09", "2030-01-01T12:00:00+09:00:01"),
        *("2030-01-01T12:00:00+24:00", "2030-01-01T12:00:00+09:60", "2030-01-01T12:00:00,5Z", "2030-01-01T12:00:00.Z"),
        *("2030-01-01T24:00:00Z", "2030-01-01T12:60:00Z", "2016-12-31T23:59:60Z", "2030-02-29T12:00:00Z"),
        *("2030-13-01T12:00:00Z", "2030-00-01T12:00:00Z", "2030-01-00T12:00:00Z", "+2030-01-01T12:00:00Z"),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "12030-01-01T12:00:00Z"),
        *(" 2030-01-01T12:00:00Z", "2030-01-01T12:00:00Z ", "2030-01-01T12:00:00Z\n", "٢٠٣٠-01-01T12:00:00Z"),
        *("infinity", "now", "2030-01-01T12:00:00Z[UTC]", "2030-01-01T12:00:00 UTC", "２030-01-01T12:00:00Z"),  # noqa: RUF001
    ],
)
def test_nothing_else_is_a_timestamp(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|year|day|month|minute|second"):
        parse_timestamp(text)


@given(st.datetimes(timezones=OFFSETS).filter(lambda timestamp: 1 < timestamp.year < 9999))
def test_every_timestamp_that_is_written_is_read_again(timestamp: datetime) -> None:
    assert parse_timestamp(timestamp.isoformat()) == timestamp


@given(st.text("0123456789TZtz:-+. _W", max_size=30) | st.text(max_size=30))
def test_a_timestamp_that_is_read_is_in_the_one_form(text: str) -> None:
    try:
        timestamp = parse_timestamp(text)
    except ValueError:
        return
    assert timestamp.tzinfo is not None
    assert timestamp.isoformat()[:19] == text[:19].upper()


@pytest.mark.parametrize("text", [ID, ID.upper(), f"{ID[:18]}{ID[18:].upper()}"])
def test_a_uuid_has_hyphens_and_digits_of_either_case(text: str) -> None:
    assert parse_uuid(text) == TypeAdapter(Uuid).validate_json(f'"{text}"') == UUID(ID)


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"urn:uuid:{ID}",
            f"{{{ID}}}",
            f"({ID})",
            ID.replace("-", ""),
            f"{ID.replace('-', '')}----",
            f" {ID}",
            f"{ID}\n",
        ),
        *(ID[:-1], f"{ID}0", f"{ID[:-1]}g", f"{ID[:-1]}١", f"{ID[:-1]}１", ID.replace("-", "_"), "0x" + ID[2:], ""),  # noqa: RUF001
    ],
)
def test_nothing_else_is_a_uuid(text: str) -> None:
    with pytest.raises(ValueError, match="four hyphens"):
        parse_uuid(text)
    with pytest.raises(ValidationError):
        TypeAdapter(Uuid).validate_python(text)


@given(st.integers(-(10**50), 10**50))
def test_integers_are_written_as_in_json(number: int) -> None:
    assert parse_integer(str(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**50), 10**50))
def test_numbers_are_written_as_in_json(number: float) -> None:
    assert parse_number(str(number)) == float(number)


@pytest.mark.parametrize("text", [*NO_INTEGERS, "9" * 5000])
def test_nothing_else_is_an_integer(text: str) -> None:
    with pytest.raises(ValueError, match="must be an integer"):
        parse_integer(text)


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_nothing_else_is_a_number(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number"):
        parse_number(text)


@pytest.mark.parametrize("value", [0, 1893456000, 1.5, True, None, [], {}, NOON])
def test_a_timestamp_is_a_text(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Timestamp).validate_python(value)


def all_below(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that the services derive from a base."""
    for path in REPOSITORY.glob("services/*/**/*.py"):
        if not path.stem.startswith("__") and "migrations" not in path.parts:
            importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    todo = base.__subclasses__()
    while todo:
        model = todo.pop()
        todo += model.__subclasses__()
        if model.__module__.startswith(("services.", "shared.")):
            yield model


def numbers(model: type[BaseModel]) -> Mapping[str, Sequence[str]]:
    """Return a model's number fields, each with texts that are not numbers."""
    wrong = {}
    for name, field in model.model_fields.items():
        kinds = re.findall(r"\w+", str(field.annotation))
        if "int" in kinds or "float" in kinds:
            wrong[name] = NO_INTEGERS if "int" in kinds else NO_NUMBERS
    return wrong


@pytest.mark.parametrize("model", sorted(all_below(Query), key=str), ids=lambda model: model.__name__)
def test_every_number_of_every_query_is_written_as_in_json(model: type[BaseModel]) -> None:
    for name, texts in numbers(model).items():
        for text in texts:
            with pytest.raises(ValidationError) as refused:
                model.model_validate({model.model_fields[name].alias or name: text})
            assert (name,) in [error["loc"] for error in refused.value.errors()], (name, text)


def load_consumer(_model: object) -> None:
    consumer_settings.load()


@pytest.mark.parametrize(
    ("model", "load_model"),
    [
        *((model, load) for model in sorted(all_below(ServiceSettings), key=str)),
        (consumer_settings.ConsumerSettings, load_consumer),
    ],
)
def test_every_number_of_every_setting_is_written_as_in_json(
    model: type[BaseSettings],
    load_model: Callable[[Any], object],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = {}
    for name, texts in numbers(model).items():
        alias = model.model_fields[name].validation_alias
        found[alias if isinstance(alias, str) else f"{model.model_config['env_prefix']}{name}".upper()] = texts
    for wrong in zip(*found.values(), strict=False):
        for variable, text in zip(found, wrong, strict=True):
            monkeypatch.setenv(variable, text)
        with pytest.raises(SystemExit):
            load_model(model)
        lines = capfd.readouterr().err.splitlines()
        named = {line.split(":")[0] for line in lines if "Value error, must be a" in line}
        assert {f"setting {variable}" for variable in found} <= named, wrong
