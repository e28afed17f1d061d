"""The stand-in of the order service."""

from tests.integration.deploy_local.stand_ins.stand_in import main

main("order")
