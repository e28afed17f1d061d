"""Messages between services of different versions: each version reads what the other one sends."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.previous import CURRENT, Version
from tests.contract.samples import samples

PROGRAM = Path(__file__).with_name("read_messages.py")


def run(version: Version, messages: Any = None) -> Any:
    """Return what the program prints when a version runs it."""
    done = subprocess.run(
        [version.python, str(PROGRAM)],
        input="" if messages is None else json.dumps(messages),
        env={"PYTHONPATH": str(version.source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def messages_of(version: Version, known: set[str]) -> list[tuple[str, Any]]:
    """Return messages that a version may send: with and without optional members, of the models that both know."""
    schemas = run(version)
    return [
        (name, message)
        for name in sorted(schemas.keys() & known)
        for optional in (False, True)
        for message in samples(schemas[name], optional=optional, without={"UnknownCommand"})
    ]


@pytest.mark.parametrize("direction", ["to the current version", "to the previous version"])
def test_what_one_version_sends_the_other_one_reads(previous: Version, direction: str) -> None:
    sender, reader = (previous, CURRENT) if direction == "to the current version" else (CURRENT, previous)
    messages = messages_of(sender, set(run(reader)))
    assert len(messages) > 40
    assert run(reader, messages) == []


def test_message_without_a_member_that_the_other_version_requires_is_found(previous: Version) -> None:
    refused = run(previous, [("HoldLine", {"product_id": "p"}), ("HoldLine", {"product_id": "p", "quantity": 1})])
    assert len(refused) == 1
    assert "quantity" in refused[0]
