"""Loads demo data through the services' own APIs. Existing data is not changed, so a restart adds nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

Json = dict[str, Any]

# Amounts are in the currency's minor unit. The stock is enough for thousands of runs of the printed commands.
PRODUCTS: tuple[Json, ...] = (
    {"product_id": "keyboard", "name": "Mechanical keyboard", "price": 45_000, "stock": 100_000},
    {"product_id": "mouse", "name": "Wireless mouse", "price": 25_000, "stock": 100_000},
    {"product_id": "monitor", "name": "27-inch monitor", "price": 320_000, "stock": 500},
    {"product_id": "print", "name": "Signed print, the last three", "price": 90_000, "stock": 3},
)
BALANCES: Mapping[str, int] = {"alice": 1_000_000_000, "bob": 100_000, "carol": 1_000}
COUPONS: tuple[Json, ...] = (
    {"coupon_id": "WELCOME10", "user_id": "alice", "kind": "percent", "value": 10, "max_discount": 10_000},
    {"coupon_id": "MINUS5000", "user_id": "alice", "kind": "fixed", "value": 5_000, "min_subtotal": 20_000},
    {"coupon_id": "BOB50", "user_id": "bob", "kind": "percent", "value": 50},
)


class DemoError(Exception):
    """A service refused the demo data; the message is shown to the user."""


@dataclass(slots=True)
class Demo:
    """Loads the data into the services at `urls`, counting what was added."""

    session: aiohttp.ClientSession
    urls: Mapping[str, str]
    added: int = 0

    async def load(self) -> int:
        """Add the missing products, coupons and balances; return how many were added."""
        for product in PRODUCTS:
            await self._create(f"{self.urls['product']}/v1/products", product)
        for coupon in COUPONS:
            await self._create(f"{self.urls['coupon']}/v1/coupons", coupon)
        for user_id, amount in BALANCES.items():
            await self._open_account(user_id, amount)
        return self.added

    async def _create(self, url: str, body: Json) -> None:
        """Create an object with a given id; 409 means that it already exists."""
        status = await self._post(url, body, {})
        if status == 201:
            self.added += 1

    async def _open_account(self, user_id: str, amount: int) -> None:
        """Charge an account unless it exists: an existing one may have been used, and is not changed."""
        url = f"{self.urls['balance']}/v1/accounts/{user_id}"
        async with self.session.get(url) as response:
            if response.status == 200:
                return
            if response.status != 404:
                raise DemoError(f"GET {url} answered {response.status}: {await response.text()}")
        # With the key, a load that was interrupted after the charge does not charge twice.
        await self._post(f"{url}/charges", {"amount": amount}, {"Idempotency-Key": f"demo-data-{user_id}"})
        self.added += 1

    async def _post(self, url: str, body: Json, headers: Mapping[str, str]) -> int:
        async with self.session.post(url, json=body, headers=headers) as response:
            if response.status not in (200, 201, 409):
                raise DemoError(f"POST {url} answered {response.status}: {await response.text()}")
            return response.status
