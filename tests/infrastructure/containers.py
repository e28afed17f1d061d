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
    """Whether a Docker engine can be reached, by DOCKER_HOST, the current context or the usual socket."""
    answer = False
    # The client forgets to close the socket of an attempt that failed; it is collected here and not in some test.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        with suppress(docker.errors.DockerException):
            engine = DockerClient()
            answer = bool(engine.client.ping())
            engine.client.close()
        gc.collect()
    return answer


@functools.cache
def why_not(image: str) -> str | None:
    """What keeps this image from running here, None if nothing does. Pulls the image if it is not there."""
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
    """Start the container and leave its end to the reaper; where its `port` can be reached from here."""
    # The reaper does what the Ryuk container is for, without a privileged container and its image.
    testcontainers_config.ryuk_disabled = True
    name = f"order-platform-tests-{secrets.token_hex(6)}"
    reaper.container(name)
    container.with_name(name).with_exposed_ports(port).start()
    return container.get_container_host_ip(), container.get_exposed_port(port)
