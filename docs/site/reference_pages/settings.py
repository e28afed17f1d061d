"""The page of all settings, from the models of the services' settings."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_settings import BaseSettings

from docs.site.reference_pages.markdown import NOTE, code, table

SERVICES = ("order", "product", "coupon", "balance", "relay", "consumer", "console")
# The code asks the machine for it, so a page can't have the number.
OF_THE_MACHINE = {"ORDER_BATCHES_AT_ONCE": "cores, at least 2"}
YEAR_SECONDS = "31,536,000"
Json = Mapping[str, Any]


def settings() -> Iterator[str]:
    """Yield the lines of the page of all settings."""
    links = [f"- [{one}](../../{package_of(one).replace('.', '/')}/README.md#settings)" for one in SERVICES]
    yield from (
        "# Settings, A to Z",
        NOTE,
        "",
        "Each service reads its settings from environment variables. This table says what a variable accepts, and what",
        "it is if it is not set. `<SERVICE>` stands for ORDER, PRODUCT, and so on. The README of a service says what",
        "each setting is for, and when it is required:",
        "",
        *links,
        "",
    )
    found: dict[tuple[str, str, str], list[str]] = {}
    for service in SERVICES:
        for variable, accepts, default in settings_of(service):
            general = variable.replace(f"{service.upper()}_", "<SERVICE>_", 1)
            found.setdefault((general, accepts, default), []).append(service)
    rows = {}
    for (general, accepts, default), services in found.items():
        name = general.replace("<SERVICE>", services[0].upper()) if len(services) == 1 else general
        rows[name, default] = [code(name), accepts, default, readers(services)]
    yield from table(("variable", "accepts", "default", "read by"), [row for _, row in sorted(rows.items())])


def readers(services: Sequence[str]) -> str:
    """Return who reads a setting: those that do, or the few that don't."""
    others = [f"the {service}" for service in SERVICES if service not in services]
    if len(others) > 2:
        return ", ".join(services)
    return "all but " + " and ".join(others) if others else "all"


def settings_of(service: str) -> Iterator[tuple[str, str, str]]:
    """Yield each variable of a service, with what it accepts and its default."""
    module = importlib.import_module(f"{package_of(service)}.settings")
    (model,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, BaseSettings) and member.__module__ == module.__name__
    )
    schema = model.model_json_schema()
    prefix = model.model_config.get("env_prefix", "")
    aliases = {field.validation_alias for field in model.model_fields.values()}
    for name, field in schema["properties"].items():
        variable = name if name in aliases else f"{prefix}{name}".upper()
        if name in schema.get("required", ()):
            default = "(required)"
        else:
            default = OF_THE_MACHINE.get(variable) or shown_default(field.get("default"))
        yield variable, accepted(variable, field), default


def shown_default(value: Any) -> str:
    """Return a default as it would stand in the environment."""
    if value in (None, ""):
        return "(none)"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, list):
        return code(" ".join(value))
    return code(int(value) if isinstance(value, float) and value.is_integer() else value)


def accepted(variable: str, field: Json) -> str:
    """Return what a variable accepts."""
    kind = next((one for one in field.get("anyOf", ()) if one.get("type") != "null"), field)
    if "const" in kind or "enum" in kind:
        return ", ".join(map(code, kind.get("enum", [kind.get("const")])))
    if kind["type"] in ("integer", "number"):
        return ", ".join([{"integer": "an integer", "number": "a number"}[kind["type"]], *bounds(kind)])
    if kind["type"] == "boolean":
        return "`true`, `false`"
    if kind["type"] == "array":
        return "words"
    if variable.endswith("_FILE"):
        return "a file"
    if variable.endswith("_URL") or "ENDPOINT" in variable:
        return "an address"
    return f"a text: {code(kind['pattern'])}" if "pattern" in kind else "a text"


def bounds(kind: Json) -> Iterator[str]:
    """Yield the bounds of a number. The consumer's models have the names of pydantic's constraints."""
    low, above, high = (
        next((f"{kind[name]:,}".removesuffix(".0") for name in names if name in kind), "")
        for names in (("minimum", "ge"), ("exclusiveMinimum", "gt"), ("maximum", "le"))
    )
    high = "a year" if high == YEAR_SECONDS else high
    if low and high:
        yield f"{low} to {high}"
    else:
        yield from (
            f"{word} {value}" for word, value in (("at least", low), ("above", above), ("at most", high)) if value
        )


def package_of(service: str) -> str:
    """Return the package of a service, or of a program in deploy/."""
    return f"deploy.{service}" if service in ("consumer", "console") else f"services.{service}"
