"""Builds the site of the documents: `make docs`. Every link and anchor must lead somewhere.

Usage: python -m docs.site FOLDER [--serve PORT]
"""

import argparse
import functools
import http.server
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.site.pages import CONFIGURATION, write

LOOPBACK = "127.0.0.1"
COLOUR = re.compile(r"\x1b\[[\d;]*m")  # the generator writes it everywhere


def build(folder: Path) -> None:
    """Build the site, and put it where the old one was. Raises SystemExit if the generator finds a fault."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as source:
        write(Path(source) / "source")
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", CONFIGURATION.name]
        built = subprocess.run(
            command,
            cwd=Path(source) / "source",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if built.returncode:
            said = built.stdout.partition("Traceback")[0]
            raise SystemExit(said if sys.stderr.isatty() else COLOUR.sub("", said))
        site = Path(source) / "source" / "site"
        for page in (site / "ko").glob("*.html"):  # the generator knows one language for all pages
            page.write_text(page.read_text().replace('<html lang="en"', '<html lang="ko"', 1))
        shutil.rmtree(folder, ignore_errors=True)
        site.rename(folder)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing about each request."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def serve(folder: Path, port: int) -> None:
    """Serve the site to this machine, until Ctrl-C."""
    handler = functools.partial(Handler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer((LOOPBACK, port), handler)
    except OSError as error:
        sys.exit(f"Port {port}: {error.strerror}. Choose another: make docs SERVE=1 PORT=…")
    with server:
        print(f"http://{LOOPBACK}:{server.server_port}/  Ctrl-C ends this.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main() -> None:
    """Build, and then serve or say where the site is."""
    parser = argparse.ArgumentParser(description="Builds the site of the documents.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--serve", type=int, metavar="PORT")
    arguments = parser.parse_args()
    build(arguments.folder)
    if arguments.serve is None:
        print(f"Open {arguments.folder / 'index.html'}, or read it at an address: make docs SERVE=1")
    else:
        serve(arguments.folder, arguments.serve)


if __name__ == "__main__":
    main()
