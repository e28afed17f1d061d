"""Replaces the kept scripts of the documents' site: `make site-scripts MERMAID=11.17.2 IFRAME_WORKER=1.0.4`."""

import sys
from pathlib import Path

from tests.infrastructure.npm_package import replace

FOLDER = Path(__file__).parents[2] / "docs" / "site" / "kept"
COMMENT = "Unchanged from a package at npm, for the site of the documents. `make site-scripts` replaces it."
# The small edition of Mermaid has all kinds of diagrams that the documents use, and is two thirds as large.
MERMAID, IFRAME_WORKER = "@mermaid-js/tiny", "iframe-worker"

if __name__ == "__main__":
    mermaid, iframe_worker = sys.argv[1:]
    replace(
        MERMAID,
        mermaid,
        {"dist/mermaid.tiny.js": FOLDER / "mermaid.tiny.js", "LICENSE": FOLDER / "mermaid.LICENSE.txt"},
        FOLDER / "mermaid.toml",
        COMMENT,
    )
    replace(
        IFRAME_WORKER,
        iframe_worker,
        {"shim/index.js": FOLDER / "iframe-worker.js", "LICENSE": FOLDER / "iframe-worker.LICENSE.txt"},
        FOLDER / "iframe-worker.toml",
        COMMENT,
    )
