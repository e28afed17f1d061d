"""The stand-in of the product service."""

from tests.integration.deploy_local.stand_ins.stand_in import main

main("product")
