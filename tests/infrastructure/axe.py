"""Replaces the kept file of axe-core, with which tests of pages look for barriers: `make axe VERSION=4.14.1`."""

import sys
from pathlib import Path

from tests.infrastructure.npm_package import replace

FOLDER = Path(__file__).parents[1] / "browser" / "axe"
KEPT = ("axe.min.js", "LICENSE", "LICENSE-3RD-PARTY.txt")
COMMENT = "axe-core, by which tests look for barriers, unchanged from its package at npm. `make axe` replaces it."

if __name__ == "__main__":
    replace("axe-core", sys.argv[1], {name: FOLDER / name for name in KEPT}, FOLDER / "RECORD.toml", COMMENT)
