"""`make sbom` writes what each lock pins and what is kept as files. The tool checks each file against the schema."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from shared.http.docs_page import VERSION
from tests.containers.engine import CONTEXTS, REPOSITORY, SERVICES, folder, run

SECONDS = 300  # the tool checks each of nine files against the schema
PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;]+)(.*?)(?=^\S|\Z)", re.M | re.S)


@pytest.fixture(scope="module")
def sboms() -> Path:
    """The folder with the files."""
    run(["make", "--no-print-directory", "sbom"], SECONDS, cwd=REPOSITORY)
    return REPOSITORY / ".local" / "sbom"


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_bill_of_materials_has_what_the_lock_pins(sboms: Path, name: str) -> None:
    pins = {
        (package, version): set(re.findall(r"sha256:(\w+)", rest))
        for package, version, rest in PIN.findall((folder(name) / "requirements.lock").read_text())
    }
    bill = json.loads((sboms / f"{name}.cdx.json").read_text())
    packages = [one for one in bill["components"] if one["purl"].startswith("pkg:pypi/")]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == f"order-platform-{name}"
    assert {(one["name"], one["version"]): hashes(one) for one in packages} == pins
    assert all(one["purl"].startswith(f"pkg:pypi/{one['name']}@{one['version']}") for one in packages)
    kept = {one["purl"] for one in bill["components"] if one not in packages}
    records = [tomllib.loads(one.read_text()) for one in folder(name).glob("static/vendor/*/RECORD.toml")]
    assert bool(records) is (name == "console")
    shared = {f"pkg:npm/swagger-ui-dist@{VERSION}"} if name in (*SERVICES, "ops", "console") else set()
    assert kept == shared | {f"pkg:npm/{one['package']}@{one['version']}" for one in records}


def hashes(component: dict[str, Any]) -> set[str]:
    """Return the SHA-256 hashes of a component's files."""
    return {one["content"] for reference in component["externalReferences"] for one in reference["hashes"]}
