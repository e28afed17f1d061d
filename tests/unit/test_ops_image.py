"""The operators' images have what their commands and pages need, and can be built from what a build gets."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "deploy" / "ops" / "requirements.lock"


def pins(lock: Path) -> set[tuple[str, str]]:
    return set(re.findall(r"^(\S+?)==(\S+)", lock.read_text(), re.M))


def test_lock_of_the_operators_image_is_that_of_what_has_commands() -> None:
    required = (LOCK.parent / "requirements.in").read_text()
    locks = [LOCK.parent / one.replace(".in", ".lock") for one in re.findall(r"^-r (.+)$", required, re.M)]
    assert len(locks) == 4
    assert pins(LOCK) == {pin for lock in locks for pin in pins(lock)}


@pytest.mark.parametrize("image", ["ops", "console"])
def test_what_an_image_of_operators_copies_exists_and_reaches_the_build(image: str) -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text()
    dockerfile = (REPOSITORY / "deploy" / image / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.M)
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        parts = source.split("/")
        assert any(f"!{'/'.join(parts[:depth])}\n" in ignored for depth in (1, 2)), source
