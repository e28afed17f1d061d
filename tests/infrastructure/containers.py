"""Servers in Docker containers, through testcontainers, on machines where an engine answers."""

import functools
import gc
import secrets
import warnings
from contextlib import suppress

import docker.errors
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from tests.infrastructure.reaper import Reaper


@functools.cache
def engine_answers() -> bool:
    """Return whether a Docker engine answers at DOCKER_HOST, the current context or the usual socket."""
    answer = False
    # The client does not close the socket of a failed attempt; collect it here, not during a test.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        with suppress(docker.errors.DockerException):
            engine = DockerClient()
            answer = bool(engine.client.ping())
            engine.client.close()
        gc.collect()
    return answer


@functools.cache
def why_not(image: str) -> str | None:
    """Return why this image can't run here, None if it can. Pulls a missing image."""
    if not engine_answers():
        return "no Docker engine answers"
    images = DockerClient().client.images
    try:
        images.get(image)
    except docker.errors.ImageNotFound:
        try:
            images.pull(image)
        except docker.errors.APIError as error:
            return f"Docker cannot pull {image}: {error.explanation}"
    return None


def start(container: DockerContainer, port: int, reaper: Reaper) -> tuple[str, int]:
    """Start the container, register it with the reaper, and return the address of its `port`."""
    # The reaper replaces the Ryuk container, without a privileged container and its image.
    testcontainers_config.ryuk_disabled = True
    name = f"order-platform-tests-{secrets.token_hex(6)}"
    reaper.container(name)
    container.with_name(name).with_exposed_ports(port).start()
    return container.get_container_host_ip(), container.get_exposed_port(port)
