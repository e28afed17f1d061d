"""The types that wire models are made of: ids, names, amounts, pages, and the bases of bodies and queries."""

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from shared.encoding import INT64_MAX, INT64_MIN
from shared.notation import TextInput

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
CURSOR_MAX = 2048  # the longest, of an id of 128 characters outside the basic plane, has 1032


def no_control_characters(text: str) -> str:
    """Return the text, or raise ValueError when it has control characters or lone surrogates."""
    # NUL can't be stored by Postgres; the others break logs, headers and terminals.
    if not text.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("must not contain control characters")
    return text


def check_addressable(new_id: str) -> str:
    """Return the id, or raise ValueError when proxies would change it on its way in a path.

    Only for new ids: older ids stay valid, and are found at their path without a proxy.
    """
    if new_id in (".", "..") or "/" in new_id or "\\" in new_id:
        raise ValueError("must not be a dot, two dots, or contain a slash or a backslash")
    return new_id


ID_MAX = 128
# The same rule for readers of the OpenAPI documents. A lone surrogate is not text in JSON.
PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f]*$"
Text = Annotated[str, AfterValidator(no_control_characters), Field(json_schema_extra={"pattern": PRINTABLE})]
Id = Annotated[Text, StringConstraints(min_length=1, max_length=ID_MAX)]
NewId = Annotated[
    Id,
    AfterValidator(check_addressable),
    Field(json_schema_extra={"pattern": r"^(?!\.{1,2}$)[^/\\\u0000-\u001f\u007f-\u009f]*$"}),
]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
Amount = Annotated[int, Field(ge=0, le=INT64_MAX)]
PositiveAmount = Annotated[int, Field(ge=1, le=INT64_MAX)]
Int64 = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]


class Wire(BaseModel):
    """Base of the public wire models: strict types, unknown fields refused, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Query(TextInput):
    """Base of the public query-string models: text is parsed to the field's type, unknown parameters refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InternalWire(BaseModel):
    """Base of what services send one another: strict types, unknown fields ignored, because the sender may be newer."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class InternalQuery(TextInput):
    """Base of the query strings of services: like Query, but unknown parameters are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _lowered(limit: Any) -> Any:
    return min(limit, LIMIT_MAX) if isinstance(limit, int) else limit


_CURSOR = re.compile(r"([0-9a-f]{2})+")


def _encoded(cursor: str) -> str:
    if not _CURSOR.fullmatch(cursor):
        raise ValueError("is not one of our cursors")
    return cursor


Cursor = Annotated[
    str,
    StringConstraints(min_length=1, max_length=CURSOR_MAX),
    AfterValidator(_encoded),
    Field(json_schema_extra={"pattern": f"^{_CURSOR.pattern}$"}),
]


class Page(Query):
    """The parameters of every list: `limit` 1..100 (more is lowered to 100) and an opaque `cursor`."""

    limit: Annotated[
        int,
        Field(ge=1, description=f"How many items at most: 1 to {LIMIT_MAX}. A higher value is lowered to {LIMIT_MAX}."),
        AfterValidator(_lowered),
    ] = LIMIT_DEFAULT
    cursor: Annotated[Cursor | None, Field(description="The `next_cursor` of the page before.")] = None


class NoBody(Wire):
    """For calls without a body: nothing, or an empty object."""
