"""Finds the replicas of each service: one for each address of the names in the settings, looked up again and again.

In compose and Kubernetes a service has one name, and its replicas come and go.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from shared.process.tasks import LoopSupervisor

LOOKUP_SECONDS = 5.0  # as long as a cluster's name server commonly keeps an answer
# The name server has answered that the name has no address. With other errors, it has not answered.
NO_ADDRESS = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Lookup = Callable[[str], Awaitable[Sequence[str]]]


class Replica(NamedTuple):
    """One process of a service. `url`: of its listener with metrics and probes."""

    service: str
    url: str
    # The name in the settings, where the URL has one of its addresses instead: the certificate is for the name.
    hostname: str | None = None

    @property
    def shown(self) -> str:
        """Return what a person reads."""
        return f"{self.service} {self.url}"


class Replicas:
    """The replicas of all services. `urls`: those of the settings. `lookup` returns a name's addresses, or raises."""

    def __init__(self, urls: Mapping[str, Sequence[str]], lookup: Lookup | None = None) -> None:
        self._given = [Replica(service, url) for service, several in urls.items() for url in several]
        self._lookup = lookup or _addresses
        self._known: dict[str, Sequence[str]] = {}
        self._names = sorted({name for one in self._given if (name := _name(one.url)) is not None})

    @property
    def found(self) -> Sequence[Replica]:
        """Return the replicas as last looked up. A name without an address is one replica, which will not answer."""
        return list(dict.fromkeys(replica for given in self._given for replica in self._of(given)))

    async def run(self) -> None:
        """Look the names up for ever."""
        supervisor = LoopSupervisor("replicas", "replicas.failed")
        while True:
            with supervisor:
                await self.round()
            await asyncio.sleep(LOOKUP_SECONDS)

    async def round(self) -> None:
        """Look each name up once. Where no name server answers, the addresses stay those of before."""
        for name, addresses in zip(self._names, await asyncio.gather(*map(self._find, self._names)), strict=True):
            self._known[name] = addresses

    async def _find(self, name: str) -> Sequence[str]:
        try:
            return of_one_family(await self._lookup(name))
        except socket.gaierror as error:
            return () if error.errno in NO_ADDRESS else self._known.get(name, ())

    def _of(self, given: Replica) -> Sequence[Replica]:
        name = _name(given.url)
        addresses = () if name is None else self._known.get(name, ())
        return [Replica(given.service, _with_address(given.url, one), name) for one in addresses] or [given]


def of_one_family(addresses: Sequence[str]) -> Sequence[str]:
    """Return the addresses in order: those of IPv4, if there are any. A replica may have one of each family."""
    parsed = {ipaddress.ip_address(address.partition("%")[0]): address for address in addresses}
    version = min((one.version for one in parsed), default=None)
    return [parsed[one] for one in sorted((one for one in parsed if one.version == version), key=int)]


def _name(url: str) -> str | None:
    """Return the name in a URL, None if it has an address instead."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return None


def _with_address(url: str, address: str) -> str:
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=f"{host}{port}").geturl()


async def _addresses(name: str) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
