"""Removes the local folder with its data and logs, once nothing uses it: `make clean`."""

import argparse
import os
import shutil
import sys

from deploy.local.configuration import local_folder
from deploy.local.folder import AlreadyRunningError, Folder
from deploy.local.stack import stop_leftovers
from deploy.local.terminal import say


def main() -> None:
    # It takes none; but whoever asks for help, or for a dry run, must not lose anything.
    argparse.ArgumentParser(prog="python -m deploy.local.clean", description=__doc__).parse_args()
    try:
        folder = Folder(local_folder(os.environ))
        if not folder.path.exists():
            return
        folder.create()
        with folder.locked():
            stop_leftovers(folder, say)
            shutil.rmtree(folder.path)
    except AlreadyRunningError as error:
        sys.exit(f"It is still running (pid {error}): stop it first")
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
