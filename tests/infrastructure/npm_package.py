"""Replaces kept files of a package at npm by those of another version, and records what they are.

npm downloads the package, and compares it with what the registry has recorded of it. Nothing of the package is run.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

RECORD = """\
# {comment}
package = "{package}"
version = "{version}"
license = "{license}"
# Of the whole package, as npm records it.
integrity = "{integrity}"

[sha256]
{files}
"""


def replace(package: str, version: str, kept: Mapping[str, Path], record: Path, comment: str) -> None:
    """Write the files and their record. `kept`: each name in the package, and the path of its copy."""
    with tempfile.TemporaryDirectory() as folder:
        [packed] = json.loads(
            subprocess.run(
                ["npm", "pack", "--json", f"{package}@{version}"],
                cwd=folder,
                check=True,
                stdout=subprocess.PIPE,
                timeout=300,
            ).stdout
        )
        archive = (Path(folder) / packed["filename"]).read_bytes()
        integrity = f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"
        assert integrity == packed["integrity"], packed
        with tarfile.open(Path(folder) / packed["filename"]) as archived:
            about = json.loads(_content(archived, "package.json"))
            files = {path: _content(archived, name) for name, path in kept.items()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    lines = sorted(f'"{path.name}" = "{hashlib.sha256(content).hexdigest()}"' for path, content in files.items())
    record.write_text(
        RECORD.format(
            comment=comment,
            package=about["name"],
            version=about["version"],
            license=about["license"],
            integrity=integrity,
            files="\n".join(lines),
        )
    )


def _content(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/{name}")
    assert file is not None, name
    return file.read()
