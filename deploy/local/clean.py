"""Removes the local folder with its data and logs, unless it is in use: `make clean`."""

import argparse
import os
import shutil
import sys

from deploy.local.configuration import local_folder
from deploy.local.folder import AlreadyRunningError, Folder
from deploy.local.stack import stop_leftovers
from deploy.local.terminal import say


def main() -> None:
    # It has no arguments, but a call with --help or an unknown flag must not delete anything.
    argparse.ArgumentParser(prog="python -m deploy.local.clean", description=__doc__).parse_args()
    try:
        folder = Folder(local_folder(os.environ))
        if not folder.path.exists():
            return
        if not folder.may_be_removed():
            sys.exit(f"{folder.path} has more than what `make run` keeps there (setting LOCAL_DIR): remove it by hand")
        folder.create()
        with folder.locked():
            stop_leftovers(folder, say)
            shutil.rmtree(folder.path)
    except AlreadyRunningError as error:
        sys.exit(f"`make run` still runs here (pid {error}): stop it first")
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
