"""Replaces the replicas of a service in compose one at a time, without a failed request. It needs Python and Docker.

    VERSION=1.2.0 python3 -m deploy.upgrade order

The image of that version must be there. The service's migrations run first. Then, for each replica, one more is started
from the new image, and has to become ready. Only then the old one gets SIGTERM; it is removed when it has ended. If the
new one does not become ready, it is removed, and the others stay as they are.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from deploy.upgrade.containers import CommandFailedError, Project, remove, wait_until_ready
from deploy.upgrade.gateway import PUBLIC, Gateway

COMPOSE_FILE = Path(__file__).resolve().parents[1] / "compose.yaml"
SERVICES = (*PUBLIC, "relay")
READY_SECONDS = 120.0
LOG_LINES = "40"


def upgrade(project: Project, service: str, ready_seconds: float) -> None:
    """Replace all replicas. Exit with 1 if one does not become ready; then those that are left are unchanged."""
    old = project.containers(service)
    if not old:
        fail(f"no replica of {service} runs; start it with compose up")
    ended = set(project.containers(service, stopped=True)) - set(old)
    if ended:  # compose would start them again, instead of one from the new image
        fail(f"remove what has ended before: docker rm {' '.join(sorted(one[:12] for one in ended))}")
    say(f"{service}: migrate")
    project.migrate(service)
    for number, replica in enumerate(old, 1):
        say(f"{service}: replace {replica[:12]}, {number} of {len(old)}")
        new = project.start_one_more(service)
        if not wait_until_ready(new, ready_seconds):
            command = ("docker", "logs", "--tail", LOG_LINES, new)
            log = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            say(log.stdout.rstrip())
            remove(new)
            fail(f"the new replica did not become ready and is removed; {len(old) - number + 1} old ones still run")
        say(f"{service}: {new[:12]} is ready")
        remove(replica)
    say(f"{service}: {len(old)} replaced")


def drain(project: Project, service: str, replica: str) -> None:
    """Let the gateway use the other replicas only. Exit with 1 if there is no other one."""
    every = project.containers(service)
    others = [one for one in every if not one.startswith(replica)]
    if len(others) != len(every) - 1 or not others:
        fail(f"{replica} is not one of several replicas of {service}: {' '.join(one[:12] for one in every)}")
    Gateway(project).use_only(service, others)
    say(f"{service}: the gateway uses {' '.join(one[:12] for one in others)} only")


def fail(message: str) -> NoReturn:
    """Exit with 1 and a message."""
    raise SystemExit(f"upgrade: {message}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main() -> None:
    """Read the arguments, and do what they say."""
    about = "Replace the replicas of a service in compose, one at a time; or drain one in the gateway."
    parser = argparse.ArgumentParser(prog="python3 -m deploy.upgrade", description=about)
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--file", action="append", help="compose file, once or more (default: deploy/compose.yaml)")
    parser.add_argument("--project-name", help="compose project (default: as compose chooses it)")
    seconds = "how long a new replica may take to become ready (default: %(default)s)"
    parser.add_argument("--ready-seconds", type=float, default=READY_SECONDS, help=seconds)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--drain", metavar="CONTAINER", help="only let the gateway send it no more requests")
    instead.add_argument("--undrain", action="store_true", help="only let the gateway use all replicas again")
    chosen = parser.parse_args()
    if (chosen.drain or chosen.undrain) and chosen.service not in PUBLIC:
        parser.error(f"the gateway sends no requests to {chosen.service}")
    try:
        project = Project(chosen.file or [str(COMPOSE_FILE)], chosen.project_name)
        if chosen.undrain:
            Gateway(project).use_all(chosen.service)
        elif chosen.drain:
            drain(project, chosen.service, chosen.drain)
        else:
            upgrade(project, chosen.service, chosen.ready_seconds)
    except CommandFailedError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
