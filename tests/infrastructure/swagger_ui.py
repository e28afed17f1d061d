"""Replaces the kept files of Swagger UI with those of another version: `make swagger-ui VERSION=5.35.0`."""

import sys

from shared.http.docs_page import FILES, FOLDER
from tests.infrastructure.npm_package import replace

KEPT = [*FILES, "swagger-ui-bundle.js.LICENSE.txt", "LICENSE", "NOTICE"]
COMMENT = (
    "The files of Swagger UI that /docs needs, unchanged from its package at npm. `make swagger-ui` replaces them."
)

if __name__ == "__main__":
    replace("swagger-ui-dist", sys.argv[1], {name: FOLDER / name for name in KEPT}, FOLDER / "RECORD.toml", COMMENT)
