"""Audits what runs here: `make audit`. It is the operators' own command, told where the local run is.

Further arguments go to it, such as --json. Exit status: as `python -m services.order.admin audit`.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from deploy.local.configuration import PARTICIPANTS, ROOT, local_folder
from deploy.local.folder import Folder
from deploy.local.terminal import read_run_or_exit


def settings_of(run: Mapping[str, Any]) -> dict[str, str]:
    """The settings by which the command reaches the run."""
    urls = {f"ORDER_{name.upper()}_URL": str(run["services"][name]["url"]) for name in PARTICIPANTS}
    return {"ORDER_DATABASE_URL": str(run["database"]), **urls}


def main() -> None:
    """Become the command."""
    settings = settings_of(read_run_or_exit(Folder(local_folder(os.environ))))
    os.chdir(ROOT)
    command = [sys.executable, "-m", "services.order.admin", "audit", *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | settings)  # noqa: S606 # fixed, without a shell


if __name__ == "__main__":
    main()
