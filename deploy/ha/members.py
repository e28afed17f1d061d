"""Asks and commands the members' Patronis over their REST API."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

ASK_SECONDS = 2.0  # a Patroni that is paused or busy counts as silent
# Patroni answers when the new primary serves. It gives up by itself before.
SWITCHOVER_SECONDS = 60.0
# A standby that has every acknowledged commit; in strict mode, one of those of which at least one has it.
IN_SYNC = ("sync_standby", "quorum_standby")


@dataclass(frozen=True, slots=True)
class Member:
    """What etcd has about a member. `role`: leader, one of IN_SYNC, or replica; `state`: running, streaming or else."""

    name: str
    role: str
    state: str


class NotMovedError(Exception):
    """Patroni refused a switchover; the message says why."""


class Members:
    """The Patronis of a cluster. `urls`: of each member's REST API."""

    def __init__(self, urls: Mapping[str, str], password: str) -> None:
        self._urls = urls
        login = base64.b64encode(f"patroni:{password}".encode()).decode()
        self._login = {"Authorization": f"Basic {login}"}

    async def all(self) -> list[Member]:
        """Return all members as the first one that answers knows them; none if none answers."""
        async with _session(ASK_SECONDS) as session:
            for url in self._urls.values():
                found = await _ask(session, f"{url}/cluster")
                if found is not None:
                    return [Member(one["name"], one["role"], one["state"]) for one in found.get("members", ())]
        return []

    async def primary(self) -> str | None:
        """Return the member that is primary and holds the key in etcd: HAProxy asks the same."""
        async with _session(ASK_SECONDS) as session:
            answers = await asyncio.gather(*(_is_ok(session, f"{url}/primary") for url in self._urls.values()))
        return next((name for name, is_primary in zip(self._urls, answers, strict=True) if is_primary), None)

    async def in_sync(self) -> list[str]:
        """Return the standbys for which commits wait, and that follow the primary now."""
        return [one.name for one in await self.all() if one.role in IN_SYNC and one.state == "streaming"]

    async def runs(self, member: str) -> bool:
        """Return whether the Postgres of a member runs, as primary or standby."""
        async with _session(ASK_SECONDS) as session:
            return await _is_ok(session, f"{self._urls[member]}/health")

    async def streams(self, member: str) -> bool:
        """Return whether a member follows the primary, as it says itself: etcd remembers a lost one for `ttl`."""
        async with _session(ASK_SECONDS) as session:
            found = await _ask(session, f"{self._urls[member]}/patroni")
        return found is not None and found.get("replication_state") == "streaming"

    async def switch_over(self, leader: str, candidate: str) -> None:
        """Make a standby the primary, without a loss. Raises NotMovedError."""
        body = {"leader": leader, "candidate": candidate}
        async with (
            _session(SWITCHOVER_SECONDS) as session,
            session.post(f"{self._urls[leader]}/switchover", json=body, headers=self._login) as answer,
        ):
            if answer.status != 200:
                raise NotMovedError(f"{answer.status}: {await answer.text()}")


def _session(seconds: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds))


async def _ask(session: aiohttp.ClientSession, url: str) -> Any:
    try:
        async with session.get(url) as answer:
            return await answer.json(content_type=None) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


async def _is_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
