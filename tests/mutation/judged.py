"""Mutants that survive and may: each was looked at, and is as good as the original."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """A line of a function, as it is, and as the mutant has it; `why` it makes no difference that a test should see.

    An empty `after` stands for all mutants of the line.
    """

    path: str
    function: str
    before: str
    after: str
    why: str


_WIRE = "shared/http/wire.py"

JUDGED: tuple[Judged, ...] = (
    Judged(_WIRE, "_read", "if not request.can_read_body:", "if False:", "no body is an empty one, at its end at once"),
    Judged(_WIRE, "check_unique_members", "if colons < 2:", "if False:", "saves time only: then it parses for nothing"),
    Judged(
        _WIRE,
        "check_unique_members",
        'if b"\\\\u003" not in raw and orjson.dumps(orjson.loads(raw)).count(b":") == colons:',
        "if False:",
        "saves time only: the slow way finds the same",
    ),
)
