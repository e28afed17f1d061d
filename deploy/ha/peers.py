"""Tells etcd where its members hear each other, because it keeps these addresses with its data."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import aiohttp

from deploy.local.processes import POLL_SECONDS

ASK_SECONDS = 5.0  # a change is answered when two of the three have it


async def tell(clients: Collection[str], peers: Mapping[str, str]) -> None:
    """Change each member's address to the one in `peers`, by its name; return when all are as they should be.

    `clients`: the URLs at which the members serve clients. It asks until two of the three run.
    """
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            for client in clients:
                try:
                    if await _told(session, client, peers):
                        return
                except (aiohttp.ClientError, TimeoutError):
                    continue  # it does not run yet, or lacks the others
            await asyncio.sleep(POLL_SECONDS)


async def _told(session: aiohttp.ClientSession, client: str, peers: Mapping[str, str]) -> bool:
    """Correct what one member knows; return whether it knew it all."""
    members = (await _call(session, f"{client}/v3/cluster/member/list", {}))["members"]
    # A member without a name has not started yet: it is new, and has the right address.
    wrong = [one for one in members if one.get("name") in peers and one["peerURLs"] != [peers[one["name"]]]]
    for one in wrong:
        change = {"ID": one["ID"], "peerURLs": [peers[one["name"]]]}
        await _call(session, f"{client}/v3/cluster/member/update", change)
    return not wrong


async def _call(session: aiohttp.ClientSession, url: str, body: object) -> Any:
    async with session.post(url, json=body, raise_for_status=True) as answer:
        return await answer.json(content_type=None)
