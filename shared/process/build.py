"""Says which build this is: the version of the code, and what the image was built from."""

import os

from prometheus_client import Gauge

VERSION = "0.1.0"
INFO = Gauge("build_info", "1, with what this process was built from as labels", ["service", "version", "revision"])


def announce(service: str) -> None:
    """Report the build. An image sets BUILD_VERSION and BUILD_REVISION; elsewhere the version is that of the code."""
    version = os.environ.get("BUILD_VERSION") or VERSION
    INFO.labels(service, version, os.environ.get("BUILD_REVISION") or "").set(1)
