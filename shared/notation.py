"""How timestamps, UUIDs and numbers are written: one grammar for bodies, paths, queries, settings and command lines."""

import math
import re
from datetime import datetime
from typing import Annotated, Any, get_args
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

# Each of these is stricter than Python's own parser, which also takes "20300101", "urn:uuid:…", "1_0" or " +1".
# RFC 3339, section 5.6.
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    re.IGNORECASE,
)
# RFC 9562, section 4: hex digits of either case.
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
# RFC 8259, section 6.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def parse_timestamp(text: object) -> datetime:
    """Return the timestamp that an RFC 3339 text with an offset stands for; digits after microseconds are dropped.

    Raises ValueError for anything else, for leap seconds, which neither Python nor Postgres knows, and for years at the
    edges of Python's range, which a shift to UTC could exceed.
    """
    if not isinstance(text, str) or not _TIMESTAMP.fullmatch(text):
        raise ValueError("must be an RFC 3339 timestamp with its offset, such as 2026-01-31T12:00:00Z")
    timestamp = datetime.fromisoformat(text.upper())
    if not 1 < timestamp.year < 9999:
        raise ValueError("must lie between the years 2 and 9998")
    return timestamp


def _hyphenated(text: object) -> str:
    if not isinstance(text, str) or not _UUID.fullmatch(text):
        raise ValueError("must be a UUID of 32 hex digits with four hyphens")
    return text


def parse_uuid(text: object) -> UUID:
    """Return the UUID that a text with hyphens stands for. Raises ValueError for braces, `urn:uuid:` and the like."""
    return UUID(_hyphenated(text))


def parse_integer(text: str) -> int:
    """Return the integer that a text stands for, written as in JSON. Raises ValueError."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("must be an integer, such as 10")
    return int(text)


def parse_number(text: str) -> float:
    """Return the finite number that a text stands for, written as in JSON. Raises ValueError."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number, such as 10 or 2.5")
    return number


Timestamp = Annotated[
    datetime, PlainValidator(parse_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
]
Uuid = Annotated[UUID, BeforeValidator(_hyphenated)]
# At most a year: a longer time is a mistake, and infinity overflows clocks and Postgres' intervals.
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]


class TextInput(BaseModel):
    """Base of models that are filled from texts, as queries and settings are."""

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        if not isinstance(value, str):
            return value
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        if int in kinds:
            return parse_integer(value)
        return parse_number(value) if float in kinds else value


def _kinds(annotation: Any) -> set[Any]:
    """Return a type and its parts: among them int for `Annotated[int, …] | None`."""
    parts = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    return {annotation}.union(*map(_kinds, parts))
