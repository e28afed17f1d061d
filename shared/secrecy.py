"""Which settings may be shown: numbers, choices and paths, and texts that are marked. Of the others nothing is told."""

from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Secrecy(Enum):
    """Whether a setting may be shown."""

    PUBLIC = "public"
    SECRET = "secret"  # noqa: S105 - the name of a kind, no password


# Marks of types: `Public[str]` may be shown, `Secret[str]` never.
Public = Annotated[T, Secrecy.PUBLIC]
Secret = Annotated[T, Secrecy.SECRET]

# A file's path is not what the file has.
_PUBLIC_TYPES = (int, float, bool, Path, NoneType)


def secrecy(field: FieldInfo) -> Secrecy | None:
    """Return whether a field may be shown; None for a text that is not marked, which is not shown either."""
    marks: list[Secrecy | None] = [mark for mark in field.metadata if isinstance(mark, Secrecy)]
    found = set(marks[-1:] or _of_parts(field.annotation))
    if Secrecy.SECRET in found:
        return Secrecy.SECRET
    return None if None in found else Secrecy.PUBLIC


def _of_parts(annotation: Any) -> list[Secrecy | None]:
    """Return the secrecy of each part of a type, such as `Public[str] | None`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [mark for mark in parts if isinstance(mark, Secrecy)]
        return list(marks[-1:]) or _of_parts(parts[0])
    if origin is Literal or annotation in _PUBLIC_TYPES:
        return [Secrecy.PUBLIC]
    if parts:
        return [one for part in parts if part is not Ellipsis for one in _of_parts(part)]
    return [Secrecy.SECRET if annotation is SecretStr else None]
