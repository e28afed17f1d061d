"""Runs `python -m deploy.ha` with the stand-ins instead of the services."""

from deploy.ha.__main__ import main

main("tests.integration.deploy_local.stand_ins")
