"""The stand-in of the balance service."""

from tests.integration.deploy_local.stand_ins.stand_in import main

main("balance")
