"""Runs the reference consumer beside the local run, until Ctrl-C: `make consume`. Its tables are in the schema
`platform` of the run's database. Between the lines of its log it says how far its records are proven complete."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from deploy.local.configuration import ANY_ADDRESS, ROOT, local_folder
from deploy.local.folder import Folder
from deploy.local.terminal import read_run_or_exit
from deploy.local.token import issuer_of


def settings_of(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings with which the consumer reaches the local run."""
    return {
        "CONSUMER_DATABASE_URL": str(run["database"]),
        "CONSUMER_RELAY_URL": str(run["services"]["relay"]["url"]),
        "KAFKA_BOOTSTRAP_SERVERS": str(run["kafka"]),
    }


def listener(environment: Mapping[str, str]) -> str:
    """Return the URL at which this machine reaches the consumer."""
    host = environment.get("CONSUMER_HOST", "127.0.0.1")
    host = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"http://{f'[{host}]' if ':' in host else host}:{environment.get('CONSUMER_PORT', '8006')}"


def main() -> None:
    """Create the tables, then replace this process with the consumer."""
    argparse.ArgumentParser(prog="python -m deploy.local.consume", description=__doc__).parse_args()
    folder = Folder(local_folder(os.environ))
    run = read_run_or_exit(folder)
    settings = settings_of(run)
    if run["issuer"] is not None:
        token = folder.path / "consumer.token"
        token.write_text(issuer_of(folder, run["issuer"]).token("consumer", "events:read"))
        settings["CONSUMER_RELAY_TOKEN_FILE"] = str(token)
    os.chdir(ROOT)
    environment = {"CONSUMER_LOG_FORMAT": "console", **os.environ, **settings}
    command = [sys.executable, "-m", "deploy.consumer"]
    status = subprocess.run([*command, "migrate"], env=environment, check=False).returncode
    if status:
        sys.exit(status)
    url = listener(environment)
    # This process becomes the consumer, so signals and the exit status are the consumer's own.
    subprocess.Popen([sys.executable, "-m", "deploy.local.proof", url, str(os.getpid())], env=environment)
    os.execve(sys.executable, command, environment)  # noqa: S606 # fixed, without a shell


if __name__ == "__main__":
    main()
