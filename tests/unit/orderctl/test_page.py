"""orderctl's page lists all its commands, settings and exit statuses."""

import re
from pathlib import Path

import click
import pytest

from deploy.orderctl.__main__ import orderctl
from deploy.orderctl.places import ADMIN, PUBLIC, variable

FOLDER = Path(__file__).parents[3] / "deploy" / "orderctl"
PAGE = (FOLDER / "README.md").read_text()
ROWS = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", PAGE, re.M)


def test_every_setting_is_on_the_page_and_every_one_on_it_exists() -> None:
    sources = "".join(path.read_text() for path in FOLDER.glob("*.py"))
    named = set(re.findall(r"ORDERCTL_[A-Z_]*[A-Z]\b", sources)) - {"ORDERCTL_ORDER_URL"}
    built = {f"ORDERCTL_{name}_FILE" for name in ("TOKEN", "CA")} | {variable(name) for name in (*PUBLIC, *ADMIN)}
    assert set(re.findall(r"`(ORDERCTL_[A-Z_]+)`", PAGE)) == named | built


@pytest.mark.parametrize("name", sorted(orderctl.commands))
def test_every_command_is_on_the_page_and_has_a_help_of_its_own(name: str) -> None:
    command = orderctl.commands[name]
    assert command.help
    if not isinstance(command, click.Group):
        assert f"`{name}`" in PAGE or f"orderctl {name} " in PAGE
        return
    (row,) = [re.findall(r"`(.+?)`", row) for row in ROWS if row.startswith(f"`{name} ")]
    assert {row[0].removeprefix(f"{name} "), *row[1:]} == set(command.commands)
    assert all(one.help for one in command.commands.values())
