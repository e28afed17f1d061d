"""`make sbom` writes what each image's lock file pins. The tool itself checks each file against the schema."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import CONTEXTS, REPOSITORY, SERVICES, run

SECONDS = 300  # the tool checks each of seven files against the schema
PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;]+)(.*?)(?=^\S|\Z)", re.M | re.S)


@pytest.fixture(scope="module")
def sboms() -> Path:
    """The folder with the files."""
    run(["make", "--no-print-directory", "sbom"], SECONDS, cwd=REPOSITORY)
    return REPOSITORY / ".local" / "sbom"


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_bill_of_materials_has_what_the_lock_pins(sboms: Path, name: str) -> None:
    folder = REPOSITORY / ("services" if name in SERVICES else "deploy") / name
    pins = {
        (package, version): set(re.findall(r"sha256:(\w+)", rest))
        for package, version, rest in PIN.findall((folder / "requirements.lock").read_text())
    }
    bill = json.loads((sboms / f"{name}.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == f"order-platform-{name}"
    assert {(one["name"], one["version"]): hashes(one) for one in bill["components"]} == pins
    assert all(one["purl"].startswith(f"pkg:pypi/{one['name']}@{one['version']}") for one in bill["components"])


def hashes(component: dict[str, Any]) -> set[str]:
    """Return the SHA-256 hashes of a component's files."""
    return {one["content"] for reference in component["externalReferences"] for one in reference["hashes"]}
