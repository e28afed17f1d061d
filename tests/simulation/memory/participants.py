"""Replaces the participants' databases in memory, with one method per query of their queries.sql."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.balance import store as balance_store
from services.coupon import store as coupon_store
from services.product import store as product_store
from tests.simulation.memory.tables import Database, Row, checked, violated


class ParticipantDatabase(Database):
    """The tables of every participant: a gate per order, the outcomes, and the horizon."""

    def __init__(self, queries: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        super().__init__(queries, clock)
        self.gates = self.table()
        self.outcomes = self.table()
        self.horizon = self.table(checked_by_invariants=False)
        self.horizon.insert(True, {"pruned_before": UUID(int=0)})

    def open_gates(self, orders: Sequence[UUID]) -> None:
        for order_id in orders:
            if self.gates.get(order_id) is None:
                self.gates.insert(order_id, {"order_id": order_id, "closed": False})

    def all_new(self, orders: Sequence[UUID]) -> bool:
        """Open the gates; return whether all orders were new and none is past, as the fast path's statements check."""
        new = all(self.gates.get(order_id) is None and not self.is_past(order_id) for order_id in orders)
        self.open_gates(orders)
        return new

    def lock_gates(self, orders: Sequence[UUID]) -> list[Row]:
        gates = self.gates.find(orders)
        return [
            {**gate, "gate": gate["order_id"], "past": self.is_past(gate["order_id"]), "now": self.clock()}
            for gate in gates
        ]

    def is_past(self, order_id: UUID) -> bool:
        before: UUID = self.horizon.rows[True]["pruned_before"]
        return order_id < before and order_id.version == 7

    def raise_horizon_to(self, before: UUID) -> None:
        """Raise the horizon to an order, not to a time as raise_horizon does: a history lasts minutes."""
        self.horizon.update(True, pruned_before=max(before, self.horizon.rows[True]["pruned_before"]))

    def lock_gates_to_prune(self, after: UUID, limit: int) -> list[Row]:
        gates = sorted(order_id for order_id in self.gates.rows if order_id > after and self.is_past(order_id))
        return [{"gate": order_id} for order_id in gates[:limit]]

    def delete_outcomes(self, orders: Sequence[UUID]) -> None:
        for place in [place for place in self.outcomes.rows if place[0] in orders]:
            self.outcomes.delete(place)

    def delete_gates(self, orders: Sequence[UUID]) -> None:
        for order_id in orders:
            self.gates.delete(order_id)

    def read_outcomes(self, orders: Sequence[UUID]) -> list[Row]:
        return [{**row, "gate": row["order_id"]} for row in self.outcomes if row["order_id"] in orders]

    def write_outcomes(self, *columns: Sequence[Any]) -> None:
        for values in zip(*columns, strict=True):
            self.write_outcome(*values)

    def write_outcome(self, order_id: UUID, type_: str, attempt: int, applied: bool, body: Mapping[str, Any]) -> Row:
        row = {"order_id": order_id, "type": type_, "attempt": attempt, "applied": applied, "body": body}
        return self.outcomes.insert((order_id, type_, attempt), row)

    def close_gates(self, orders: Sequence[UUID]) -> None:
        for order_id in orders:
            self.gates.update(order_id, closed=True)


class ProductsDatabase(ParticipantDatabase):
    """Schema products."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(product_store.SQL, clock)
        self.products = self.table()
        self.holds = self.table()

    def create_product(self, product_id: str, name: str, price: int, stock: int) -> list[Row]:
        row = {"product_id": product_id, "name": name, "price": price, "stock": stock, "put_in": stock}
        return [self.products.insert(product_id, row)]

    def read_holds(self, orders: Sequence[UUID]) -> list[Row]:
        return [hold for hold in self.holds if hold["order_id"] in orders and hold["status"] == "HELD"]

    def lock_stock(self, products: Sequence[str]) -> list[Row]:
        return self.products.find(products)

    def hold_in_one_statement(self, orders: Sequence[UUID], *columns: Sequence[Any]) -> list[Row]:
        if not self.all_new(orders):
            return []
        stocks = {row["product_id"]: row["stock"] for row in self.products}
        lines = [line for line in zip(*columns, strict=True) if stocks.get(line[2], -1) >= line[4]]
        taken = [line for line in lines if sum(other[0] == line[0] for other in lines) == line[1]]
        bodies: dict[UUID, list[Row]] = {}
        for order_id, _, product_id, quantity, _ in taken:
            row = self.products.rows[product_id]
            self.write_stock([product_id], [row["stock"] - quantity])
            self.write_holds([order_id], [product_id], [quantity], [row["price"]])
            line = {"product_id": product_id, "name": row["name"], "quantity": quantity, "unit_price": row["price"]}
            bodies.setdefault(order_id, []).append(line)
        return [
            self.write_outcome(order_id, "hold_stock", 0, True, {"lines": lines}) for order_id, lines in bodies.items()
        ]

    def write_holds(self, *columns: Sequence[Any]) -> None:
        for order_id, product_id, quantity, unit_price in zip(*columns, strict=True):
            row = {"order_id": order_id, "product_id": product_id, "quantity": quantity, "unit_price": unit_price}
            self.holds.insert((order_id, product_id), {**row, "status": "HELD"})

    def write_restored(self, orders: Sequence[UUID]) -> None:
        for hold in self.read_holds(orders):
            self.holds.update((hold["order_id"], hold["product_id"]), status="RESTORED")

    def delete_restored(self, orders: Sequence[UUID]) -> None:
        for hold in [hold for hold in self.holds if hold["order_id"] in orders and hold["status"] == "RESTORED"]:
            self.holds.delete((hold["order_id"], hold["product_id"]))

    def write_stock(self, products: Sequence[str], stocks: Sequence[int]) -> None:
        for product_id, stock in zip(products, stocks, strict=True):
            row = self.products.update(product_id, stock=stock)
            checked(row, stock=stock >= 0, put_in=row["put_in"] >= stock)


class CouponsDatabase(ParticipantDatabase):
    """Schema coupons."""

    _COLUMNS = (
        *("coupon_id", "user_id", "kind", "value", "max_discount", "min_subtotal", "expires_at"),
        *("status", "order_id", "discount_amount"),
    )

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(coupon_store.SQL, clock)
        self.coupons = self.table()

    def create_coupon(self, coupon_id: str, *values: Any) -> list[Row]:
        row = dict(zip(self._COLUMNS, (coupon_id, *values, "AVAILABLE", None, None), strict=True))
        return [self.coupons.insert(coupon_id, row)]

    def lock_coupons(self, coupons: Collection[str], orders: Collection[UUID]) -> list[Row]:
        return [row for row in self.coupons.find(self.coupons.rows) if _either(row, coupons, orders)]

    def use_in_one_statement(self, orders: Sequence[UUID], *columns: Sequence[Any]) -> list[Row]:
        if not self.all_new(orders):
            return []
        taken = []
        for type_, status, order_id, coupon_id, user_id, subtotal_amount in zip(*columns, strict=True):
            coupon = self.coupons.get(coupon_id)
            if coupon is None or coupon["status"] != "AVAILABLE" or coupon["user_id"] != user_id:
                continue
            if (
                coupon["min_subtotal"] > subtotal_amount
                or (coupon["expires_at"] or datetime.max.replace(tzinfo=UTC)) <= self.clock()
            ):
                continue
            discount = coupon["value"] if coupon["kind"] == "fixed" else subtotal_amount * coupon["value"] // 100
            discount = min(discount, subtotal_amount, *([coupon["max_discount"]] if coupon["max_discount"] else []))
            self.write_outcome(order_id, type_, 0, True, {"discount_amount": discount})
            self.write_coupons([coupon_id], [status], [order_id], [discount])
            taken.append({"order_id": order_id, "discount_amount": discount})
        return taken

    def write_coupons(self, *columns: Sequence[Any]) -> None:
        for coupon_id, status, order_id, discount_amount in zip(*columns, strict=True):
            row = self.coupons.update(coupon_id, status=status, order_id=order_id, discount_amount=discount_amount)
            available = status == "AVAILABLE"
            checked(row, order_id=(order_id is None) == available, discount=(discount_amount is None) == available)
            holders = [row for row in self.coupons if order_id is not None and row["order_id"] == order_id]
            if len(holders) > 1:
                raise violated("coupons_by_order")


class BalancesDatabase(ParticipantDatabase):
    """Schema balances."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(balance_store.SQL, clock)
        self.accounts = self.table()
        self.entries = self.table()

    def open_account(self, user_id: str) -> None:
        if self.accounts.get(user_id) is None:
            self.accounts.insert(user_id, {"user_id": user_id, "balance": 0, "charged": 0, "entry_count": 0})

    def read_paid(self, orders: Sequence[UUID]) -> list[Row]:
        paid: dict[tuple[UUID, str], int] = {}
        for entry in self.entries:
            if entry["order_id"] in orders:
                place = (entry["order_id"], entry["user_id"])
                paid[place] = paid.get(place, 0) - entry["amount"]
        return [{"order_id": order, "user_id": user, "amount": amount} for (order, user), amount in paid.items()]

    def lock_accounts(self, users: Sequence[str]) -> list[Row]:
        return self.accounts.find(users)

    def debit_in_one_statement(self, orders: Sequence[UUID], *columns: Sequence[Any]) -> list[Row]:
        if not self.all_new(orders):
            return []
        before = {row["user_id"]: row for row in self.accounts}
        taken = []
        for order_id, attempt, entry_id, user_id, amount, amount_up_to, place, amount_sum, _ in zip(
            *columns, strict=True
        ):
            account = before.get(user_id)
            if account is None or account["balance"] < amount_sum:
                continue
            number, balance = account["entry_count"] + place, account["balance"] - amount_up_to
            self.write_outcome(order_id, "debit", attempt, True, {"balance": balance})
            self._write_entry(
                *(user_id, number, entry_id, "debit", -amount),
                *("sales", order_id, attempt, balance, None),
            )
            self.write_accounts([user_id], [balance], [account["charged"]], [number])
            taken.append({"order_id": order_id, "balance_after": balance})
        return taken

    def write_accounts(self, *columns: Sequence[Any]) -> None:
        for user_id, balance, charged, entry_count in zip(*columns, strict=True):
            row = self.accounts.update(user_id, balance=balance, charged=charged, entry_count=entry_count)
            checked(row, balance=balance >= 0, charged=charged >= balance)

    def write_entries(self, *columns: Sequence[Any]) -> list[Row]:
        return [self._write_entry(*values) for values in zip(*columns, strict=True)]

    def _write_entry(self, user_id: str, number: int, entry_id: UUID, kind: str, amount: int, *values: Any) -> Row:
        counter_account, order_id, attempt, balance_after, _ = values
        place = (order_id, user_id, kind, attempt)
        if order_id is not None and any(_place(entry) == place for entry in self.entries):
            raise violated("entries_by_order")
        row = {"user_id": user_id, "number": number, "entry_id": entry_id, "kind": kind, "amount": amount}
        row |= {"counter_account": counter_account, "order_id": order_id, "attempt": attempt}
        checked(row, amount=amount < 0 if kind == "debit" else amount > 0, balance_after=balance_after >= 0)
        return self.entries.insert((user_id, number), {**row, "balance_after": balance_after})


def _either(coupon: Row, coupons: Collection[str], orders: Collection[UUID]) -> bool:
    return coupon["coupon_id"] in coupons or coupon["order_id"] in orders


def _place(entry: Row) -> tuple[UUID, str, str, int]:
    return (entry["order_id"], entry["user_id"], entry["kind"], entry["attempt"])
