"""Prints a token of the local run's issuer: `make token SUB=alice SCOPES="catalog:write ops"`."""

import argparse
import os
import sys

from deploy.issuer.__main__ import Issuer, read_or_create_key
from deploy.local.configuration import AUDIENCE, local_folder
from deploy.local.folder import Folder
from deploy.local.terminal import read_run_or_exit, write
from shared.process.exits import Exit, end


def issuer_of(folder: Folder, url: str) -> Issuer:
    """Return the issuer at `url` of the run in this folder, with its key."""
    return Issuer(read_or_create_key(folder.issuer_key), url, AUDIENCE)


def main() -> None:
    """Print a token; exit with an error if nothing runs here, or if it runs without an issuer."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.token", description=__doc__)
    parser.add_argument("sub", help="the user")
    parser.add_argument("scopes", nargs="?", default="", help="separated by spaces")
    arguments = parser.parse_args()
    folder = Folder(local_folder(os.environ))
    issuer = read_run_or_exit(folder)["issuer"]
    if issuer is None:
        end(Exit.MISCONFIGURED, "This run asks nobody for a token: start it with `make run AUTH=jwt`")
    write(issuer_of(folder, issuer).token(arguments.sub, arguments.scopes))
    sys.exit(Exit.DONE)


if __name__ == "__main__":
    main()
