"""The commands that check manifests. `make manifests` builds them first: no test waits for minutes."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.infrastructure.builds import one_at_a_time

KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"
KUBE_SCORE = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "order-platform"
BUILD_SECONDS = 1800  # compiles on a busy machine, once


@cache
def go_tool(package: str) -> Path:
    """Return a command, `path@version` of a Go package. It is built once, and kept outside the repository."""
    path, version = package.split("@")
    name = next(part for part in reversed(path.split("/")) if not part.startswith("v"))
    folder = CACHE / f"{name}-{version}"
    with one_at_a_time(folder):
        if not (folder / name).exists():
            go = shutil.which("go")
            assert go, "the manifests are checked with tools that Go builds: install Go 1.24 or newer"
            environment = {**os.environ, "GOBIN": str(folder)}
            subprocess.run([go, "install", package], env=environment, check=True, timeout=BUILD_SECONDS)
    return folder / name


if __name__ == "__main__":
    for tool in (KUSTOMIZE, KUBE_SCORE):
        go_tool(tool)
