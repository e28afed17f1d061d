"""Audits the local run: `make audit`. It runs the operators' own command with the local run's addresses.

It prints the result for people. With --json it prints what the command prints. Exit status: as
`python -m services.order.admin audit`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from deploy.local.configuration import PARTICIPANTS, ROOT, local_folder
from deploy.local.folder import Folder
from deploy.local.progress import Progress
from deploy.local.terminal import read_run_or_exit
from deploy.orderctl.plain import has_colour
from deploy.orderctl.verdict import Commands, verdict
from shared.operators import show
from shared.process.exits import Exit

COMMANDS = Commands("make audit ARGS=--json", 'make repair BY=you REASON="why" DRY_RUN=1')
ADMIN = [sys.executable, "-m", "services.order.admin"]


def environment() -> dict[str, str]:
    """Return the environment in which the operators' commands reach the local run. Exits if nothing runs."""
    return os.environ | settings_of(read_run_or_exit(Folder(local_folder(os.environ))))


def settings_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings with which the command reaches the local run."""
    settings = {"ORDER_DATABASE_URL": str(run["database"])}
    for name in PARTICIPANTS:
        participant = run["services"][name]
        settings[f"ORDER_{name.upper()}_URL"] = participant["internal_url"]
        if "secret_file" in participant:
            settings[f"ORDER_{name.upper()}_INTERNAL_SECRET_FILE"] = participant["secret_file"]
    return settings


def become(command: str, *arguments: str) -> NoReturn:
    """Replace this process with a command of the operators."""
    settings = environment()
    os.chdir(ROOT)
    os.execve(sys.executable, [*ADMIN, command, *arguments], settings)  # noqa: S606 # fixed, without a shell


def main() -> None:
    """Run the command, and print its result."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.audit", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    if parser.parse_args().json:
        become("audit", "--json")
    settings = environment()
    try:
        with Progress("comparing every order with the books"):
            done = subprocess.run(
                [*ADMIN, "audit", "--json"], env=settings, cwd=ROOT, stdout=subprocess.PIPE, check=False
            )
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    if done.returncode in (Exit.DONE, Exit.NOT_CLEAN):  # otherwise it said why, on standard error
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr] # a terminal may know no ✓
        show(verdict(json.loads(done.stdout), COMMANDS, colour=has_colour()))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
