"""Runs the reference consumer beside what runs here: `make consume`, until Ctrl-C. Its tables are in the schema
`platform` of the run's own database; http://127.0.0.1:8006/v1/completeness tells how far its records are proven."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from deploy.local.configuration import ROOT, local_folder
from deploy.local.folder import Folder
from deploy.local.terminal import read_run_or_exit


def settings_of(run: Mapping[str, Any]) -> dict[str, str]:
    """The settings by which the consumer reaches the run."""
    return {
        "CONSUMER_DATABASE_URL": str(run["database"]),
        "CONSUMER_RELAY_URL": str(run["services"]["relay"]["url"]),
        "KAFKA_BOOTSTRAP_SERVERS": str(run["kafka"]),
    }


def main() -> None:
    """Make the tables, then become the consumer."""
    argparse.ArgumentParser(prog="python -m deploy.local.consume", description=__doc__).parse_args()
    settings = settings_of(read_run_or_exit(Folder(local_folder(os.environ))))
    os.chdir(ROOT)
    environment = {"CONSUMER_LOG_FORMAT": "console", **os.environ, **settings}
    command = [sys.executable, "-m", "deploy.consumer"]
    status = subprocess.run([*command, "migrate"], env=environment, check=False).returncode
    if status:
        sys.exit(status)
    os.execve(sys.executable, command, environment)  # noqa: S606 # fixed, without a shell


if __name__ == "__main__":
    main()
