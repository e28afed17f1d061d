"""Adds to an image's bill of materials what no lock pins: packages for pages, kept as files. `make sbom` runs it.

It runs in the environment of the tool that wrote the bill, whose library checks the result against the schema.
"""

import base64
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SHARED = Path(__file__).parents[2] / "shared" / "http" / "swagger_ui" / "RECORD.toml"


def add(bill: dict[str, Any], record: Mapping[str, str]) -> None:
    """Add a package, which the image's own component depends on."""
    name, version = record["package"], record["version"]
    reference = f"{name}=={version}"
    bill["components"].append(
        {
            "bom-ref": reference,
            "type": "library",
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-512", "content": base64.b64decode(record["integrity"].split("-")[1]).hex()}],
            "licenses": [{"license": {"id": record["license"]}}],
            "purl": f"pkg:npm/{name}@{version}",
        }
    )
    image = bill["metadata"]["component"]["bom-ref"]
    for one in bill["dependencies"]:
        if one["ref"] == image:
            one["dependsOn"] = sorted([*one.get("dependsOn", ()), reference])
    bill["dependencies"].append({"ref": reference})


def main(path: Path, folder: Path) -> None:
    """Add those of an image's folder, and that of `shared`, to the bill in a file.

    Raises SystemExit if the result does not fit the schema.
    """
    bill = json.loads(path.read_text())
    for record in (SHARED, *sorted(folder.glob("static/vendor/*/RECORD.toml"))):
        add(bill, tomllib.loads(record.read_text()))
    text = json.dumps(bill, indent=2)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise SystemExit(f"{path}: {error}")
    path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
