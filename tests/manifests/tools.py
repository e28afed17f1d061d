"""The commands that check manifests. `make manifests` builds them first: no test waits for minutes."""

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            go = shutil.which("go")
            assert go, "the manifests are checked with tools that Go builds: install Go 1.24 or newer"
            environment = {**os.environ, "GOBIN": str(folder)}
            subprocess.run([go, "install", package], env=environment, check=True, timeout=BUILD_SECONDS)
    return folder / name


if __name__ == "__main__":
    for tool in (KUSTOMIZE, KUBE_SCORE):
        go_tool(tool)
