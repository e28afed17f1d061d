"""`make ha`: starts everything on this machine, on a Postgres that fails over, until Ctrl-C."""

import argparse
import os
import sys
from functools import partial

from deploy.ha.programs import missing
from deploy.ha.stack import STANDBYS_STRICT, HaStack
from deploy.local.__main__ import start
from deploy.local.configuration import SERVICES
from shared.process.exits import Exit, complain


def main(package: str = "services") -> None:
    """Run until Ctrl-C. The setting STANDBYS is 1 or 2; `package` contains the five services."""
    parser = argparse.ArgumentParser(prog="python -m deploy.ha", description=__doc__)
    parser.add_argument("--no-demo", action="store_true", help="load no demo data")
    arguments = parser.parse_args()
    complaints = missing()
    standbys = os.environ.get("STANDBYS") or "1"
    if standbys not in ("1", str(STANDBYS_STRICT)):
        complaints.append(f"setting STANDBYS: must be 1 or {STANDBYS_STRICT} (got {standbys!r})")
    addresses = [f"{service.upper()}_DATABASE_URL" for service in SERVICES]
    if given := [name for name in addresses if os.environ.get(name) or os.environ.get(f"{name}_FILE")]:
        complaints.append(f"setting {', '.join(given)}: this starts a Postgres of its own; unset it")
    if complaints:
        complain(*complaints)
        sys.exit(Exit.MISCONFIGURED)
    try:
        status = start(demo=not arguments.no_demo, package=package, stack=partial(HaStack, standbys=int(standbys)))
    except KeyboardInterrupt:  # before anything was started
        status = Exit.INTERRUPTED
    sys.exit(status)


if __name__ == "__main__":
    main()
