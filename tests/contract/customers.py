"""A customer of the stack: the requests, and the balance, coupon and stock afterwards."""

from dataclasses import dataclass
from typing import Any

from tests.infrastructure.services import Answer
from tests.infrastructure.stack import Shop


@dataclass(frozen=True, slots=True)
class Customer:
    """A user, a product at 100 with 10 in stock, and a coupon of 10 per cent."""

    shop: Shop
    user: str
    product: str
    coupon: str

    async def place(self, quantity: int = 1, **fields: Any) -> Answer:
        """Return the body of an order of the product, by default with the coupon."""
        lines = [{"product_id": self.product, "quantity": quantity}]
        body = {"user_id": self.user, "lines": lines, "coupon_id": self.coupon, **fields}
        return await self.shop.order.call("POST", "/v1/orders", body)

    async def later(self) -> str:
        """Place an order that is paid later, and return its path."""
        answer = await self.place(payment="later")
        assert answer.status == 201, answer
        return f"/v1/orders/{answer.body['order_id']}"

    async def has(self) -> tuple[int, str, int]:
        """Return the free stock, the coupon's status, and the balance."""
        product = await self.shop.product.get(f"/v1/products/{self.product}")
        coupon = await self.shop.coupon.get(f"/v1/coupons/{self.coupon}")
        account = await self.shop.balance.get(f"/v1/accounts/{self.user}")
        return product["stock"], coupon["status"], account["balance"]
