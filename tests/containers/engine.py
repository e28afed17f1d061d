"""The platform in a Docker engine: images built from the Dockerfiles, and containers of deploy/compose.yaml."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
COMPOSE_FILE = REPOSITORY / "deploy" / "compose.yaml"
SERVICES = ("order", "product", "coupon", "balance", "relay")
# The build context of each image.
CONTEXTS = {
    **dict.fromkeys(SERVICES, REPOSITORY),
    "consumer": REPOSITORY / "deploy" / "consumer",
    "issuer": REPOSITORY / "deploy" / "issuer",
    "ops": REPOSITORY,
    "console": REPOSITORY,
}
BASES = ("python:3.11-slim", "postgres:15", "apache/kafka:4.1.0", "nginx:1.22", "prom/prometheus:v2.42.0")
PROJECT = "order-platform-test"
VERSION = "test"
BUILD_SECONDS = 900  # downloads an image's packages
UP_SECONDS = 600
COMMAND_SECONDS = 60
DOWN = ("--profile", "monitoring", "down", "--volumes", "--remove-orphans")


def succeeds(*command: str) -> bool:
    """Return whether a command is installed and ends with 0."""
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@cache
def compose() -> list[str]:
    """Return the command for compose files: the plugin's, or that of docker-compose."""
    return ["docker", "compose"] if succeeds("docker", "compose", "version") else ["docker-compose"]


def why_not() -> str | None:
    """Return why containers can't run here, None if they can. Pulls missing images."""
    if not succeeds("docker", "info"):
        return "no Docker engine answers"
    if not succeeds(*compose(), "version"):
        return "the Docker engine has no compose"
    missing = [one for one in BASES if not has(one)]
    return f"the Docker engine cannot pull {' '.join(missing)}" if missing else None


def has(image: str) -> bool:
    """Return whether the engine has the image, or could pull it."""
    return succeeds("docker", "image", "inspect", image) or succeeds("docker", "pull", "--quiet", image)


def run(command: Sequence[str], seconds: float = COMMAND_SECONDS, **options: Any) -> str:
    """Run a command to its end, and return what it wrote; fail with its errors if it fails."""
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds, **options)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return str(ended.stdout)


def folder(name: str) -> Path:
    """Return the folder with an image's Dockerfile and the lock of its packages."""
    return REPOSITORY / ("services" if name in SERVICES else "deploy") / name


def build(name: str, version: str = VERSION, *, tag: str = "", cached: bool = True) -> str:
    """Build an image as the documents say, and return its name. `tag`: by default the version."""
    dockerfile, context = folder(name) / "Dockerfile", CONTEXTS[name]
    image = f"order-platform/{name}:{tag or version}"
    # The host's network: some machines reach the package registries only there.
    command = ["docker", "build", "--network", "host", "--file", str(dockerfile), "--tag", image, str(context)]
    run([*command, "--build-arg", f"VERSION={version}", *["--no-cache"] * (not cached)], BUILD_SECONDS)
    return image


@dataclass(frozen=True)
class Platform:
    """The running containers, by the names that compose.yaml gives them. `files`: that one, or more after it."""

    environment: Mapping[str, str]
    files: Sequence[Path] = (COMPOSE_FILE,)

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run compose with these arguments."""
        files = [word for file in self.files for word in ("--file", str(file))]
        command = [*compose(), *files, "--project-name", PROJECT, *arguments]
        return run(command, seconds, env={**os.environ, **self.environment})

    def replicas(self, name: str) -> list[dict[str, Any]]:
        """Return what the engine says of each running container of a service."""
        labels = {"project": PROJECT, "service": name}
        filters = [f"--filter=label=com.docker.compose.{label}={value}" for label, value in labels.items()]
        listed = run(["docker", "ps", "--quiet", *filters]).split()
        return list(json.loads(run(["docker", "inspect", *listed]))) if listed else []

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of all replicas of a service, one for each of their networks."""
        return [network["IPAddress"] for one in self.replicas(name) for network in networks(one).values()]

    def shared_address(self, one: str, other: str) -> str:
        """Return an address of the other that one reaches: in a network of both."""
        own, others = (networks(self.replicas(name)[0]) for name in (one, other))
        return str(next(network["IPAddress"] for name, network in others.items() if name in own))

    def execute(self, name: str, program: Sequence[str], script: str, *arguments: str) -> str:
        """Run a script inside a replica of a service, given on standard input to a program such as `bash -s`."""
        command = ["docker", "exec", "--interactive", self.replicas(name)[0]["Id"], *program, *arguments]
        return run(command, input=script)

    def token(self, subject: str, scopes: str = "") -> str:
        """Return a token of the platform's issuer."""
        issuer = ["exec", "-T", "issuer", "python", "-m", "issuer", "token", "--sub", subject, "--scopes", scopes]
        return self.compose(*issuer).strip()


def networks(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the networks of a container, and its address in each."""
    return dict(container["NetworkSettings"]["Networks"])


@contextmanager
def running(environment: Mapping[str, str]) -> Iterator[Platform]:
    """Start everything, yield it, and remove it with its volumes."""
    platform = Platform(environment)
    platform.compose(*DOWN, seconds=UP_SECONDS)
    try:
        platform.compose("up", "--detach", "--no-build", seconds=UP_SECONDS)
        yield platform
    finally:
        platform.compose(*DOWN, seconds=UP_SECONDS)
