"""What the rows of a slot are: the tables of each service that has some, and how to find them. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

# Read and written in this order: a saga refers to its order, an outcome to its gate, an entry to its account.
ORDER, USER = "order_id", "user_id"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with rows of slots. `by`: the column that tells a row's slot. `key`: its primary key."""

    name: str
    by: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a cell. `guarded`: the tables with the trigger on closed slots, in the order in which the service
    locks them."""

    name: str
    schema: str
    tables: tuple[Table, ...]
    guarded: tuple[str, ...]

    def rows(self, table: Table, moved: "Moved") -> sql.Composed:
        """Return the condition for the rows of these slots."""
        slots = sql.Literal(sorted(moved.slots))
        if table.by == ORDER:
            return sql.SQL("{}.slot_in(order_id) = ANY ({}::smallint[]) AND order_id >= {}").format(
                sql.Identifier(self.schema), slots, sql.Literal(moved.first_id)
            )
        return sql.SQL("{}.slot_of(user_id) = ANY ({}::smallint[])").format(sql.Identifier(self.schema), slots)

    def place(self, table: str) -> sql.Identifier:
        """Return a table's name with its schema."""
        return sql.Identifier(self.schema, table)


@dataclass(frozen=True, slots=True)
class Moved:
    """The slots that move together, and the least id that contains a slot."""

    slots: Collection[int]
    first_id: UUID


_GATES = (Table("gates", ORDER, (ORDER,)), Table("outcomes", ORDER, (ORDER, "type", "attempt")))
ORDERS = Service(
    "order",
    "orders",
    (
        Table("orders", ORDER, (ORDER,)),
        Table("sagas", ORDER, ("saga_id",)),
        Table("idempotency_keys", USER, (USER, "operation", "key")),
    ),
    ("idempotency_keys", "sagas"),
)
COUPONS = Service("coupon", "coupons", (*_GATES, Table("coupons", USER, ("coupon_id",))), ("gates", "coupons"))
BALANCES = Service(
    "balance",
    "balances",
    (*_GATES, Table("accounts", USER, (USER,)), Table("entries", USER, (USER, "number"))),
    ("gates", "accounts"),
)
# The participants last: what the order service has begun needs them.
SERVICES: Sequence[Service] = (ORDERS, COUPONS, BALANCES)
