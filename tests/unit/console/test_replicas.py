"""A name in the settings is as many replicas as it has addresses, and they are looked up again."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from deploy.console.figures import replicas as module
from deploy.console.figures.replicas import Replica, Replicas


class Names:
    """A name server: the addresses of each name, or the error that it answers with."""

    def __init__(self, **known: Sequence[str] | int) -> None:
        self.known = known
        self.asked: list[str] = []

    async def lookup(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        found = self.known[name]
        if isinstance(found, int):
            raise socket.gaierror(found, "no address")
        return found


async def test_each_address_of_a_name_is_a_replica() -> None:
    names = Names(order=["10.0.0.10", "10.0.0.9", "10.0.0.10"], relay=["10.0.1.1"])
    replicas = Replicas({"order": ["https://order:8101"], "relay": ["http://relay/base"]}, names.lookup)
    await replicas.round()
    assert replicas.found == [
        Replica("order", "https://10.0.0.9:8101", "order"),
        Replica("order", "https://10.0.0.10:8101", "order"),
        Replica("relay", "http://10.0.1.1/base", "relay"),
    ]
    assert replicas.found[0].shown == "order https://10.0.0.9:8101"


@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [
        (["fd00::2", "10.0.0.1", "fd00::1"], ["10.0.0.1"]),
        (["fd00::10", "fd00::2"], ["[fd00::2]", "[fd00::10]"]),
        (["::1", "127.0.0.1"], ["127.0.0.1"]),
        (["fe80::1%eth0"], ["[fe80::1%eth0]"]),
    ],
)
async def test_replica_with_an_address_of_each_family_is_one(addresses: list[str], hosts: list[str]) -> None:
    replicas = Replicas({"order": ["http://order:1"]}, Names(order=addresses).lookup)
    await replicas.round()
    assert [one.url for one in replicas.found] == [f"http://{host}:1" for host in hosts]


async def test_addresses_are_not_looked_up() -> None:
    names = Names()
    replicas = Replicas({"order": ["http://127.0.0.1:1", "http://[::1]:2"]}, names.lookup)
    await replicas.round()
    assert replicas.found == [Replica("order", "http://127.0.0.1:1"), Replica("order", "http://[::1]:2")]
    assert names.asked == []


async def test_replicas_follow_the_name() -> None:
    names = Names(order=["10.0.0.1", "10.0.0.2"])
    replicas = Replicas({"order": ["http://order:1"]}, names.lookup)
    await replicas.round()
    names.known["order"] = ["10.0.0.2", "10.0.0.3"]
    await replicas.round()
    assert [one.url for one in replicas.found] == ["http://10.0.0.2:1", "http://10.0.0.3:1"]


async def test_names_are_looked_up_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.0)
    several = asyncio.Event()

    class Counting(Names):
        async def lookup(self, name: str) -> Sequence[str]:
            if len(self.asked) == 2:
                several.set()
            return await super().lookup(name)

    running = asyncio.create_task(Replicas({"order": ["http://order:1"]}, Counting(order=[]).lookup).run())
    await asyncio.wait_for(several.wait(), 10)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


@pytest.mark.parametrize("error", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_service_without_an_address_is_one_replica_by_its_name(error: int) -> None:
    names = Names(order=["10.0.0.1", "10.0.0.2"])
    replicas = Replicas({"order": ["http://order:1"]}, names.lookup)
    before = replicas.found
    await replicas.round()
    names.known["order"] = error
    await replicas.round()
    assert before == replicas.found == [Replica("order", "http://order:1")]


async def test_replicas_stay_while_no_name_server_answers() -> None:
    names = Names(order=["10.0.0.1"], relay=["10.0.1.1"])
    replicas = Replicas({"order": ["http://order:1"], "relay": ["http://relay:1"]}, names.lookup)
    await replicas.round()
    names.known = {"order": socket.EAI_AGAIN, "relay": ["10.0.1.2"]}
    await replicas.round()
    assert [one.url for one in replicas.found] == ["http://10.0.0.1:1", "http://10.0.1.2:1"]


async def test_replica_that_several_names_lead_to_is_one() -> None:
    names = Names(order=["10.0.0.1"])
    replicas = Replicas({"order": ["http://order:1", "http://order:1"]}, names.lookup)
    await replicas.round()
    assert len(replicas.found) == 1


async def test_machines_own_names_are_looked_up() -> None:
    replicas = Replicas({"order": ["http://localhost:1"]})
    await replicas.round()
    assert replicas.found == [Replica("order", "http://127.0.0.1:1", "localhost")]
