"""The containers of a compose project, by Docker's command line: version 2 of compose, or docker-compose 1.29."""

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

LOOK_SECONDS = 0.5
STOP_SECONDS = 25  # a stop takes at most 23: docs/runbook.md, "Rolling restart"


class CommandFailedError(Exception):
    """A command of Docker ended with an error; the message is what it wrote."""


def run(*command: str) -> str:
    """Run a command to its end, and return what it wrote. Raises CommandFailedError."""
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise CommandFailedError(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}".rstrip())
    return ended.stdout


def compose_command() -> list[str]:
    """Return the command for compose files: the plugin's, or docker-compose."""
    plugin = subprocess.run(("docker", "compose", "version"), check=False, capture_output=True)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


class Project:
    """The containers of a compose project."""

    def __init__(self, files: Sequence[str], name: str | None) -> None:
        named = ["--project-name", name] if name else []
        self._name = name
        self._compose = [*compose_command(), *[word for file in files for word in ("--file", file)], *named]

    def compose(self, *arguments: str) -> str:
        """Run compose. Raises CommandFailedError."""
        return run(*self._compose, *arguments)

    def containers(self, service: str, *, stopped: bool = False) -> list[str]:
        """Return the ids of the service's containers, the oldest first; with `stopped`, also those that don't run."""
        if self._name is None:
            running = self.compose("ps", "--quiet", service).split()
            if not running:
                return []
            self._name = described(running[0])["Config"]["Labels"]["com.docker.compose.project"]
        labels = {"project": self._name, "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        every = ["--all"] if stopped else []
        return run("docker", "ps", "--quiet", "--no-trunc", *every, *filters).split()[::-1]  # it begins with the latest

    def migrate(self, service: str) -> None:
        """Run the service's migrations with the new image. Raises CommandFailedError."""
        self.compose("run", "-T", "--rm", "--no-deps", f"{service}-migrate")

    def start_one_more(self, service: str) -> str:
        """Start one more container, and return its id. Raises CommandFailedError, and leaves nothing then."""
        before = self.containers(service, stopped=True)
        number = len(self.containers(service)) + 1
        error = None
        try:
            self.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"{service}={number}", service)
        except CommandFailedError as failed:
            error = failed
        new = [one for one in self.containers(service, stopped=True) if one not in before]
        if error is None and len(new) == 1:
            return new[0]
        for one in new:
            remove(one)
        raise error or CommandFailedError(f"compose started {len(new)} containers instead of one")


def described(container: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    found: dict[str, Any] = json.loads(run("docker", "inspect", container))[0]
    return found


def is_ready(container: str) -> bool:
    """Ask the container's /readyz, in the way in which its health check asks /livez."""
    _, *command = described(container)["Config"]["Healthcheck"]["Test"]
    asked = ["docker", "exec", container, *(word.replace("/livez", "/readyz") for word in command)]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def wait_until_ready(container: str, seconds: float) -> bool:
    """Return whether the container becomes ready in time; it does not if it ends or is restarted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = described(container)
        if not state["State"]["Running"] or state["RestartCount"]:
            return False
        if is_ready(container):
            return True
        time.sleep(LOOK_SECONDS)
    return False


def remove(container: str) -> None:
    """Stop a container, with time to finish its requests, and remove it."""
    run("docker", "stop", "-t", str(STOP_SECONDS), container)  # newer versions have no --time
    run("docker", "rm", "--volumes", container)


def shared_address(one: str, other: str) -> str:
    """Return an address of the other container that the first one reaches: in a network of both."""
    own, others = (described(name)["NetworkSettings"]["Networks"] for name in (one, other))
    return str(next(network["IPAddress"] for name, network in others.items() if name in own))
