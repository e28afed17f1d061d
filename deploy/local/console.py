"""The console beside the services: its port, and the environment that says where they are."""

from collections.abc import Mapping

from deploy.local import ports
from deploy.local.configuration import CONSOLE_PORT, SERVICES, Configuration
from deploy.local.folder import Folder

CONSOLE = "console"


def choose_port(configuration: Configuration, folder: Folder) -> int:
    """Return the port that is set; or else the last run's or the usual one, if it is free, or any other."""
    remembered = folder.remembered().get("console_port")
    return ports.choose_again(configuration.console_port, remembered, CONSOLE_PORT, configuration.wanted_ports)


def console_environment(configuration: Configuration, of_services: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the environment of the console: that of the services, and their addresses."""
    found = dict(of_services) | {"CONSOLE_PORT": str(port)}
    for service in ("order", "relay"):
        found[f"CONSOLE_{service.upper()}_URL"] = configuration.url(service)
    for service in configuration.admin_ports:
        found[f"CONSOLE_{service.upper()}_ADMIN_URL"] = configuration.admin_url(service)
    for service in SERVICES:
        found[f"CONSOLE_{service.upper()}_REPLICAS"] = configuration.internal_url(service)
    return found
