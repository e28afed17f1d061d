"""Malformed requests: every service answers each with a 4xx problem."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from shared.http.wire import BODY_MAX_BYTES
from tests.infrastructure.services import Client

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Attack:
    """A request and its expected answer."""

    name: str
    status: int
    problem: str
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


async def withstand(client: Client, attack: Attack) -> None:
    """Send the attack and check the answer."""
    answer = await client.call(attack.method, URL(attack.path, encoded=True), data=attack.body, headers=attack.headers)
    assert (answer.status, answer.problem) == (attack.status, attack.problem), answer


def bodies(path: str, valid: Mapping[str, Any], number: str, text: str | None = None) -> Iterator[Attack]:
    """Return malformed bodies for a POST that takes `valid`; its field `number` is an integer, `text` a text."""

    def attack(name: str, status: int, problem: str, body: bytes, headers: Mapping[str, str] = JSON) -> Attack:
        return Attack(name, status, problem, "POST", path, body, headers)

    def invalid(name: str, /, **changes: Any) -> Attack:
        return attack(name, 422, "validation-failed", json.dumps({**valid, **changes}).encode())

    good = json.dumps(valid).encode()
    yield attack("no body", 400, "malformed-body", b"")
    yield attack("half a body", 400, "malformed-body", good[:-1])
    yield attack("two bodies", 400, "malformed-body", good + good)
    yield attack("a member twice", 400, "malformed-body", good[:-1] + b", " + good[1:])
    yield attack("not UTF-8", 400, "malformed-body", b'{"\xff": 1}')
    yield attack("a lone surrogate", 400, "malformed-body", b'{"\\ud800": 1}')
    yield attack("deep nesting", 400, "malformed-body", b"[" * 20_000 + b"]" * 20_000)
    yield attack("an array", 422, "validation-failed", b"[]")
    yield attack("null", 422, "validation-failed", b"null")
    yield attack("nothing in it", 422, "validation-failed", b"{}")
    yield attack("too large", 413, "body-too-large", b" " * (BODY_MAX_BYTES + 1))
    yield attack("a form", 415, "unsupported-media-type", good, {"Content-Type": "application/x-www-form-urlencoded"})
    yield attack("UTF-16", 415, "unsupported-media-type", good, {"Content-Type": "application/json; charset=utf-16"})
    yield attack("gzip announced", 415, "unsupported-media-type", good, {**JSON, "Content-Encoding": "gzip"})
    yield invalid("an unknown field", nonsense=1)
    wrong: list[Any] = ["1", 1.0, 1.5, True, None, [], {}, -(2**63) - 1, 2**63, 10**400]
    for value in wrong:
        yield invalid(f"{number} is {str(value)[:24]!r} ({type(value).__name__})", **{number: value})
    if text is not None:
        for value in ("", "nul\0", "bell\a", "x" * 1000, 1, ["x"]):
            yield invalid(f"{text} is {str(value)[:24]!r} ({type(value).__name__})", **{text: value})


def lists(path: str) -> Iterator[Attack]:
    """Return malformed query strings of a public list."""
    yield from limits(path)
    for query in (
        "cursor=",
        "cursor=zz",
        "cursor=5b5d",  # []
        "cursor=5b6e756c6c5d",  # [null]
        "cursor=5b225c7530303030225d",  # ["\u0000"]
        "nonsense=1",
        "limit%00=1",
    ):
        yield _query(path, query)


def limits(path: str) -> Iterator[Attack]:
    """Return malformed numbers of items; the only ones that an internal list refuses, as it ignores what it lacks."""
    for query in (
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1_0",
        "limit=1.0",
        "limit=01",
        "limit=%2B1",
        "limit=+1",  # a space
        "limit=%D9%A1",  # an Arabic one
        "limit=1&limit=2",
        "limit=" + "9" * 5000,
    ):
        yield _query(path, query)


def _query(path: str, query: str) -> Attack:
    return Attack(f"?{query[:24]}", 422, "validation-failed", "GET", f"{path}?{query}")


def paths(path: str, slug: str) -> Iterator[Attack]:
    """Return requests with impossible ids in the path; `path` ends before the id."""
    for name in ("%00", "%0a", "%ff", "%ed%a0%80", "x" * 129, "..%2f..%2fetc%2fpasswd", "'%20OR%201=1--"):
        yield Attack(f"{path}{name[:24]}", 404, slug, "GET", path + name)
    yield Attack("a path that isn't there", 404, "not-found", "GET", path + "a/b/c")
    yield Attack("a method that isn't there", 405, "method-not-allowed", "DELETE", path + "a")
