"""What an image holds, and as whom it runs."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.containers.engine import CONTEXTS, folder, run

PACKAGES = """
import importlib.metadata as metadata
for one in metadata.distributions(path=["/opt/venv/lib/python3.11/site-packages"]):
    print(one.metadata["Name"] + "==" + one.version)
"""
INSTALLERS = """
import importlib.util
names = "pip", "setuptools", "wheel", "ensurepip", "pkg_resources"
print(*[name for name in names if importlib.util.find_spec(name)])
"""
WRITABLE = (
    "import os; print(*[one for one, _, _ in os.walk('/') if not one.startswith('/proc') and os.access(one, os.W_OK)])"
)


def inside(image: str, script: str, python: str = "python") -> list[str]:
    """Run a Python script in a container as compose confines it, and return the words that it prints."""
    confined = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", python]
    return run(["docker", "run", *confined, image, "-c", script]).split()


@pytest.fixture(params=CONTEXTS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of one image."""
    return str(request.param)


@pytest.fixture
def configuration(images: Mapping[str, str], name: str) -> dict[str, Any]:
    """What the image says of itself."""
    (described,) = json.loads(run(["docker", "inspect", images[name]]))
    return dict(described["Config"])


@pytest.mark.parametrize("python", ["/opt/venv/bin/python", "/usr/local/bin/python"])
def test_an_image_has_no_installer(images: Mapping[str, str], name: str, python: str) -> None:
    assert inside(images[name], INSTALLERS, python) == []


def test_an_image_has_exactly_the_packages_of_its_lock(images: Mapping[str, str], name: str) -> None:
    lines = (folder(name) / "requirements.lock").read_text().splitlines()
    locked = {line.split()[0] for line in lines if "==" in line[:80] and "win32" not in line}
    found = {
        one.lower().replace("_", "-").replace(".", "-", one.split("==")[0].count("."))
        for one in inside(images[name], PACKAGES)
    }
    assert found == locked


def test_an_image_runs_as_a_user_who_can_write_nothing(
    images: Mapping[str, str], configuration: dict[str, Any], name: str
) -> None:
    assert configuration["User"] == "10001:10001"
    assert inside(images[name], "import os; print(os.getuid(), os.getgid())") == ["10001", "10001"]
    writable = run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python", images[name], "-c", WRITABLE]
    )
    own = {"/keys", "/tokens", "/secrets", "/kafka", "/database", "/logins"} if name == "issuer" else set()
    devices = {"/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp", "/run/lock"}
    folders = {one for one in writable.split() if one not in devices}
    assert {f"/{one.split('/')[1]}" for one in folders} == own


def test_an_image_names_itself_and_its_base(configuration: dict[str, Any], name: str) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in configuration["Labels"].items()}
    assert labels["title"] == f"order-platform/{name}"
    assert labels["base.name"] == "python:3.11-slim"
    assert labels["version"] == "test"
    assert labels["licenses"] == "Apache-2.0"
    assert not any("://" in value for value in labels.values())
