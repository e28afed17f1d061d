"""The settings in effect, for operators: as they would stand in the environment, and without secrets."""

import re
from typing import Any

from aiohttp import web
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from shared.contracts.scopes import Scope
from shared.contracts.types import Wire
from shared.http.routes import Route
from shared.http.server import reply
from shared.process.settings import variable_of
from shared.secrecy import Secrecy, secrecy

PATH = "/internal/v1/settings"
# A URL that only names a place. Others may have a password before the host, or a key after the path.
_PLACE = re.compile(r"[^/?#@]+://[^/?#@]*(/[^?#@]*)?")


class Setting(Wire):
    """A setting as it would stand in the environment: null is not set. `differs`: from its default."""

    variable: str
    value: str | None
    default: str | None
    differs: bool


class SettingsInEffect(Wire):
    """The settings of a process. `hidden`: those that are set, and are or may hold a secret."""

    items: list[Setting]
    hidden: list[str]


def settings_route(settings: BaseSettings) -> Route:
    """Return the call that shows the settings. It belongs on the internal listener, and needs an operator's token."""
    answer = in_effect(settings).model_dump()

    async def show(_request: web.Request) -> web.Response:
        return reply(answer)

    summary = "Show the settings in effect, without secrets"
    return Route("GET", PATH, Scope.OPS_READ, show, summary, {200: SettingsInEffect})


def in_effect(settings: BaseSettings) -> SettingsInEffect:
    """Return what may be shown of the settings."""
    items: list[Setting] = []
    hidden: list[str] = []
    for name, field in type(settings).model_fields.items():
        variable, value, default = variable_of(type(settings), name), getattr(settings, name), field.get_default()
        text = _text(value)
        if secrecy(field) is Secrecy.PUBLIC and (text is None or _names_places(text)):
            differs = name in settings.model_fields_set and value != default
            items.append(Setting(variable=variable, value=text, default=_text(default), differs=differs))
        elif value is not None:
            hidden.append(variable)
    return SettingsInEffect(items=items, hidden=hidden)


def _text(value: Any) -> str | None:
    if value is None or value is PydanticUndefined:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _names_places(text: str) -> bool:
    """Return whether all URLs in the text only name places."""
    return all(_PLACE.fullmatch(word) for word in text.split() if "://" in word)
