"""The scopes of tokens. They are part of the public API: an issuer has to know them."""

from enum import Enum


class Scope(Enum):
    """What a token may allow, beside the caller's own orders, coupons and account."""

    ORDERS_WRITE = "orders:write"
    ORDERS_READ = "orders:read"
    CATALOG_WRITE = "catalog:write"
    COUPONS_WRITE = "coupons:write"
    ACCOUNTS_CHARGE = "accounts:charge"
    OPS = "ops"
    OPS_READ = "ops:read"
    EVENTS_READ = "events:read"


# A scope that allows changing something also allows reading it.
WIDER = {Scope.ORDERS_READ: Scope.ORDERS_WRITE, Scope.OPS_READ: Scope.OPS}
