"""Fixtures: the images, built once, and the platform that runs from them.

Without an engine, the tests are skipped, and with CI=true they fail.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.containers.engine import CONTEXTS, VERSION, Platform, build, running, why_not
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.waiting import free_port

HINT = "as root, `make containers` starts one (Debian: docker.io iptables docker-compose debootstrap maven)"
BUILDS = 3  # at once: a build mostly waits for the engine and for downloads


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """The name of each image of ours."""
    missing = why_not()
    if missing:
        # Also where a skipped test's reason is not shown.
        print(f"\nNOT PROVEN, because {missing}: the images, deploy/compose.yaml and docs/reach.md")
        cannot_run(f"{missing}; {HINT}")
    with ThreadPoolExecutor(BUILDS) as threads:
        return dict(zip(CONTEXTS, threads.map(build, CONTEXTS), strict=True))


@pytest.fixture(scope="session")
def platform(images: dict[str, str]) -> Iterator[Platform]:
    """All containers of compose.yaml, on ports that are free here."""
    assert images
    names = ("POSTGRES", "KAFKA", "CONSUMER", "CONSOLE", "PROMETHEUS")
    ports = {f"{name}_PORT": str(free_port()) for name in names}
    environment = {"VERSION": VERSION, "GATEWAY_ADDRESS": f"127.0.0.1:{free_port()}", **ports}
    with running(environment) as platform:
        yield platform
