"""Whoever follows the tutorial sees what it says, from `make run` to `make clean`."""

import os
import sys
from pathlib import Path

import pytest

from deploy.local.configuration import ADMIN_PORTS, CONSOLE_PORT, SERVICES
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.tutorial import Reader, clone, shows, steps
from tests.infrastructure.waiting import free_ports

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "tutorial.md"
README = REPOSITORY / "README.md"
SETTINGS_OF_OTHERS = ("_DATABASE_URL", "_DATABASE_URL_FILE", "KAFKA_BOOTSTRAP_SERVERS")


@pytest.mark.timeout(240)
def test_every_command_of_tutorial_and_readme_does_what_it_says(tmp_path: Path, reaper: Reaper) -> None:
    names = [f"{name.upper()}_PORT" for name in SERVICES] + [f"{name.upper()}_ADMIN_PORT" for name in ADMIN_PORTS]
    defaults = [*SERVICES.values(), *ADMIN_PORTS.values()]
    names, defaults = [*names, "CONSOLE_PORT"], [*defaults, CONSOLE_PORT]
    ports = free_ports(len(names))
    inherited = {name: value for name, value in os.environ.items() if not name.endswith(SETTINGS_OF_OTHERS)}
    environment = inherited | {name: str(port) for name, port in zip(names, ports, strict=True)}
    addresses = {f"127.0.0.1:{old}": f"127.0.0.1:{new}" for old, new in zip(defaults, ports, strict=True)}
    folder = clone(tmp_path / "clone", sys.executable)
    reader = Reader(folder, environment | {"PYTHONWARNINGS": ""}, addresses, reaper)
    *tried, end = steps(PAGE)
    for step in [*tried, *(step for step in steps(README) if step.language == "sh")]:
        reader.do(step)
    assert reader.output.count('"status":"PAID"') == 2
    reader.do(end)
    assert not (folder / ".local").exists()
    assert not list(folder.glob("*.py"))


@pytest.mark.parametrize(
    ("output", "text", "expected"),
    [
        ("a\nb 12 c\nd\n", "b … c\n", True),
        ("a\nb 12 c\nd\n", "b … c\nd\n", True),
        ("a\nb 12 c\nd\n", "b …\nc\n", False),
        ("ab\n", "b\n", False),
    ],
)
def test_output_is_compared_by_lines_and_an_ellipsis_stands_for_any_text(
    output: str, text: str, *, expected: bool
) -> None:
    assert shows(output, text) is expected
