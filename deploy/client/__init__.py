"""A client of the order platform, for asyncio: typed calls, idempotency keys, safe repetitions. See README.md."""

from collections.abc import Mapping
from types import TracebackType

import aiohttp

from .accounts import AccountCalls
from .coupons import CouponCalls
from .models import Account, Coupon, Entry, Line, Order, OrderLine, OrderStatus, Product, TimelineItem
from .orders import OrderCalls
from .problems import ClientError, NoFinalAnswer, OutcomeUnknown, Problem, UnexpectedAnswer
from .products import ProductCalls
from .retries import Policy
from .transport import Service, Token, Transport, new_key

__all__ = [
    "Account",
    "Client",
    "ClientError",
    "Coupon",
    "Entry",
    "Line",
    "NoFinalAnswer",
    "Order",
    "OrderLine",
    "OrderStatus",
    "OutcomeUnknown",
    "Policy",
    "Problem",
    "Product",
    "Service",
    "TimelineItem",
    "Token",
    "UnexpectedAnswer",
    "new_key",
]


class Client:
    """The platform, at a gateway's URL, or at the URL of each service that is used.

    `token`: returns the caller's token, or an awaitable of it; it is asked before each attempt, so it may renew the
    token. `session`: an aiohttp session of yours, for example with certificates; it is not closed. Make a
    client where an event loop runs.
    """

    def __init__(
        self,
        url: str | Mapping[Service, str],
        *,
        token: Token | None = None,
        policy: Policy | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._own = session is None
        # Without cookies: none of the services sets one, and a proxy's would be sent to all of them.
        self._session = session or aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        urls = {service.value: url if isinstance(url, str) else url.get(service, "") for service in Service}
        transport = Transport(self._session, urls, token, policy or Policy())
        self.orders = OrderCalls(transport)
        self.products = ProductCalls(transport)
        self.coupons = CouponCalls(transport)
        self.accounts = AccountCalls(transport)

    async def close(self) -> None:
        """Close the connections."""
        if self._own:
            await self._session.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
