"""What the services answer, as JSON."""

from typing import Any

ORDER_ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"
PRODUCT = {"product_id": "keyboard", "name": "Keyboard", "price": 45000, "stock": 5, "currency": "KRW"}
COUPON = {
    "coupon_id": "TEN",
    "user_id": "alice",
    "kind": "percent",
    "value": 10,
    "min_subtotal": 0,
    "status": "AVAILABLE",
    "created_at": "2026-01-05T09:30:00.123456Z",
    "currency": "KRW",
}


def an_order(status: str = "PAID", **changed: Any) -> dict[str, Any]:
    """Return an order."""
    line = {"product_id": "keyboard", "name": "Keyboard", "quantity": 1, "unit_price": 45000, "line_amount": 45000}
    return {
        "order_id": ORDER_ID,
        "user_id": "alice",
        "status": status,
        "lines": [line],
        "subtotal_amount": 45000,
        "discount_amount": 0,
        "total_amount": 45000,
        "currency": "KRW",
        "created_at": "2026-01-05T09:30:00.123456Z",
        **changed,
    }
