"""The operators' image can be built from the locks that the services have."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "deploy" / "ops" / "Dockerfile").read_text()


def test_locks_of_the_operators_image_have_one_version_of_each_package() -> None:
    locks = re.findall(r"^COPY (\S+\.lock) ", DOCKERFILE, re.M)
    pins = {pin for lock in locks for pin in re.findall(r"^(\S+?)==(\S+)", (REPOSITORY / lock).read_text(), re.M)}
    assert len(locks) == 3
    assert len(pins) == len({name for name, _ in pins})


def test_what_the_operators_image_copies_exists_and_reaches_the_build() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M)
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        parts = source.split("/")
        assert any(f"!{'/'.join(parts[:depth])}\n" in ignored for depth in (1, 2)), source
