"""Audits the local run: `make audit`. It runs the operators' own command with the local run's addresses.

It passes further arguments on, such as --json. Exit status: as `python -m services.order.admin audit`.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from deploy.local.configuration import PARTICIPANTS, ROOT, local_folder
from deploy.local.folder import Folder
from deploy.local.terminal import read_run_or_exit


def settings_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings with which the command reaches the local run."""
    settings = {"ORDER_DATABASE_URL": str(run["database"])}
    for name in PARTICIPANTS:
        participant = run["services"][name]
        settings[f"ORDER_{name.upper()}_URL"] = participant["internal_url"]
        if "secret_file" in participant:
            settings[f"ORDER_{name.upper()}_INTERNAL_SECRET_FILE"] = participant["secret_file"]
    return settings


def main() -> None:
    """Replace this process with the command."""
    settings = settings_of(read_run_or_exit(Folder(local_folder(os.environ))))
    os.chdir(ROOT)
    command = [sys.executable, "-m", "services.order.admin", "audit", *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | settings)  # noqa: S606 # fixed, without a shell


if __name__ == "__main__":
    main()
