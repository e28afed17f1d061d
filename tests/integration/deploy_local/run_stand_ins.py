"""Runs `python -m deploy.local` with the stand-ins instead of the services."""

import sys

from deploy.local.__main__ import start

sys.exit(start(demo="--no-demo" not in sys.argv, package="tests.integration.deploy_local.stand_ins"))
