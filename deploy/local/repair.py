"""Releases what the audit of the local run found held without an order: `make repair`.

It runs `python -m services.order.admin repair` with the local run's addresses, and passes all arguments on.
"""

import sys

from deploy.local.audit import become


def main() -> None:
    """Replace this process with the command."""
    become("repair", *sys.argv[1:])


if __name__ == "__main__":
    main()
