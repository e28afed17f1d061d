"""Replaces the console's kept scripts with those of other versions: `make console-assets HTMX=2.0.11 UPLOT=1.6.32`."""

import sys

from deploy.console.assets import VENDOR
from tests.infrastructure.npm_package import replace

# By package: its files, and their names in its folder of the console.
KEPT = {
    "htmx.org": {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "LICENSE"},
    "uplot": {
        "dist/uPlot.iife.min.js": "uPlot.iife.min.js",
        "dist/uPlot.min.css": "uPlot.min.css",
        "LICENSE": "LICENSE",
    },
}
COMMENT = (
    "Files that the console's pages load, unchanged from their package at npm. `make console-assets` replaces them."
)

if __name__ == "__main__":
    for (package, files), version in zip(KEPT.items(), sys.argv[1:], strict=True):
        folder = VENDOR / package
        kept = {name: folder / file for name, file in files.items()}
        replace(package, version, kept, folder / "RECORD.toml", COMMENT)
