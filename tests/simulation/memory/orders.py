"""Replaces the order service's database in memory, with one method per query of services/order/queries.sql."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from services.order import store
from tests.simulation.memory.tables import Database, Row, checked, violated

NOBODY = UUID(int=0)
LIVE = ("RUNNING", "COMPENSATING")


class OrdersDatabase(Database):
    """Schema orders."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__(store.SQL, clock)
        self.orders = self.table()
        self.sagas = self.table()
        self.keys = self.table()
        self.processes = self.table(checked_by_invariants=False)
        self.outbox = self.table()
        self.acts = self.table(checked_by_invariants=False)

    # Reading ------------------------------------------------------------------------------------------------------

    def get_order(self, order_id: UUID) -> list[Row]:
        return self.orders.find([order_id])

    def get_saga(self, saga_id: UUID) -> list[Row]:
        saga = self.sagas.get(saga_id)
        if saga is None:
            return []
        names = ("saga_id", "kind", "version", "target", "attempt", "owner", "stuck", "problem", "traceparent")
        own = {name: saga[name] for name in names}
        return [{**own, "saga_status": saga["status"], **self.orders.rows[saga["order_id"]]}]

    def read_live_sagas(self, orders: Sequence[UUID]) -> list[Row]:
        return [saga for saga in self.live() if saga["order_id"] in orders]

    def read_clock(self) -> list[Row]:
        return [{"clock_timestamp": self.clock()}]

    def live(self) -> Iterable[Row]:
        """Return the rows of the index sagas_live."""
        return [saga for saga in self.sagas if saga["status"] in LIVE]

    # Starting -----------------------------------------------------------------------------------------------------

    def claim_keys(self, *columns: Sequence[Any]) -> list[Row]:
        claimed = []
        for user_id, operation, key, fingerprint, saga_id in zip(*columns, strict=True):
            place = (user_id, operation, key)
            if self.keys.get(place) is None:
                row = {"user_id": user_id, "operation": operation, "key": key, "fingerprint": fingerprint}
                unanswered = {"saga_id": saga_id, "status": None, "body": None, "location": None}
                claimed.append(self.keys.put(place, {**row, **unanswered, "created_at": self.clock()}))
        return claimed

    def read_keys(self, *columns: Sequence[str]) -> list[Row]:
        return [{**key, "refused": self._refused(key)} for key in self.keys.find(list(zip(*columns, strict=True)))]

    def _refused(self, key: Row) -> Row | None:
        saga = None if key["status"] is not None else self.sagas.get(key["saga_id"])
        if saga is None or saga["ended_at"] is None or saga["problem"] is None:
            return None
        refused = {"kind": saga["kind"], "order_id": str(saga["order_id"]), "problem": saga["problem"]}
        return {**refused, "lines": self.orders.rows[saga["order_id"]]["lines"]}

    def answer_keys_now(self, *columns: Sequence[Any]) -> None:
        for *place, status, body, location in zip(*columns, strict=True):
            self.keys.update(tuple(place), saga_id=None, status=status, body=body, location=location)

    def attach_keys(self, *columns: Sequence[Any]) -> None:
        for *place, saga_id in zip(*columns, strict=True):
            self.keys.update(tuple(place), saga_id=saga_id)

    def place_orders(self, *arguments: Any) -> list[Row]:
        *columns, currency, timeout_seconds, version, owner = arguments
        placed = []
        for saga_id, order_id, user_id, lines, coupon_id, kind, attempt, traceparent in zip(*columns, strict=True):
            now = self.clock()
            row = {
                "order_id": order_id,
                "user_id": user_id,
                "status": "PLACING",
                "lines": orjson.loads(lines),
                "coupon_id": coupon_id,
                "subtotal_amount": None,
                "discount_amount": None,
                "total_amount": None,
                "currency": currency,
                "closing": None,
                "reason": None,
                "payment_attempt": attempt,
                "event_sequence": 0,
                "created_at": now,
                "expires_at": now + timedelta(seconds=timeout_seconds) if attempt == 0 else None,
                "paid_at": None,
            }
            placed.append(self.orders.insert(order_id, row))
            saga = ([saga_id], [order_id], [kind], ["RUNNING"], [None], [attempt], [traceparent])
            self.insert_sagas(*saga, version, owner)
        return placed

    def insert_sagas(self, *arguments: Any) -> None:
        *columns, version, owner = arguments
        for saga_id, order_id, kind, status, target, attempt, traceparent in zip(*columns, strict=True):
            row = {
                "saga_id": saga_id,
                "order_id": order_id,
                "kind": kind,
                "version": version,
                "status": status,
                "target": target,
                "attempt": attempt,
                "owner": owner,
                "stuck": False,
                "problem": None,
                "traceparent": traceparent,
                "started_at": self.clock(),
                "ended_at": None,
            }
            self._save_saga(row)

    def lock_orders(self, orders: Sequence[UUID]) -> list[Row]:
        return self.orders.find(orders)

    def begin_payments(self, orders: Sequence[UUID]) -> list[Row]:
        return [
            self._save_order({**order, "status": "PAYING", "payment_attempt": order["payment_attempt"] + 1})
            for order in self.orders.find(orders)
            if order["status"] == "PENDING_PAYMENT" and order["closing"] is None
        ]

    def begin_closings(self, orders: Sequence[UUID], targets: Sequence[str]) -> list[Row]:
        closings = dict(zip(orders, targets, strict=True))
        return [
            self._save_order({**order, "closing": closings[order["order_id"]]})
            for order in self.orders.find(orders)
            if order["status"] in ("PENDING_PAYMENT", "PAID") and order["closing"] is None
        ]

    # Transitions ------------------------------------------------------------------------------------------

    def apply_transitions(self, *arguments: Any) -> list[Row]:
        *columns, owner = arguments
        # All guards see the rows as they were before the statement.
        locked = [move for move in zip(*columns, strict=True) if self._may_move(move, owner)]
        return [self._move(*move) for move in locked]

    def _may_move(self, move: Sequence[Any], owner: UUID) -> bool:
        saga_id, order_id, saga_from, _, order_from = move[:5]
        saga, order = self.sagas.get(saga_id), self.orders.get(order_id)
        return (
            saga is not None
            and order is not None
            and order["status"] == order_from
            and saga["status"] == saga_from
            and saga["owner"] == owner
        )

    def _move(self, *move: Any) -> Row:
        saga_id, order_id, _, saga_to, _, order_to, target, problem, _, *written, answer = _grouped(move)
        lines, subtotal, discount, reason, paid_at, event_id, event, payload, traceparent = written
        saga, order = self.sagas.rows[saga_id], self.orders.rows[order_id]
        ended_at = None if saga_to in LIVE else self.clock()
        self._save_saga(
            {**saga, "status": saga_to, "target": target, "problem": problem, "stuck": False, "ended_at": ended_at}
        )
        priced = subtotal is not None and discount is not None
        row = {
            **order,
            "status": order_to,
            "lines": order["lines"] if lines is None else orjson.loads(lines),
            "subtotal_amount": order["subtotal_amount"] if subtotal is None else subtotal,
            "discount_amount": order["discount_amount"] if discount is None else discount,
            "total_amount": subtotal - discount if priced else order["total_amount"],
            "closing": None if saga_to == "COMPENSATED" else order["closing"],
            "reason": reason,
            "paid_at": paid_at,
            "event_sequence": order["event_sequence"] + int(event is not None),
        }
        self._save_order(row)
        if event is not None:
            self._write_event(event_id, order_id, row["event_sequence"], event, payload, traceparent)
        self._answer(saga_id, payload, *answer)
        return {"saga_id": saga_id, "now": self.clock()}

    def _write_event(
        self, event_id: UUID, order_id: UUID, sequence: int, type_: str, payload: bytes, trace: str
    ) -> None:
        row = {"event_id": event_id, "order_id": order_id, "sequence": sequence, "type": type_}
        row |= {"payload": payload, "traceparent": trace}
        checked(row, sequence=sequence >= 1)
        self.outbox.insert((order_id, sequence), row)

    def _answer(self, saga_id: UUID, payload: bytes, status: int | None, body: bytes | None, location: str) -> None:
        for row in [row for row in self.keys if row["saga_id"] == saga_id and row["status"] is None]:
            if status is not None:
                place = (row["user_id"], row["operation"], row["key"])
                self.keys.update(place, status=status, body=payload if body is None else body, location=location)

    def answer_keys(self, *columns: Sequence[Any]) -> None:
        for saga_id, status, body, location in zip(*columns, strict=True):
            self._answer(saga_id, body, status, None, location)

    def mark_stuck(self, saga_id: UUID, owner: UUID) -> None:
        saga = self.sagas.get(saga_id)
        if saga is not None and saga["owner"] == owner and saga["status"] == "COMPENSATING":
            self.sagas.update(saga_id, stuck=True)

    def count_stuck(self) -> list[Row]:
        return [{"count": sum(saga["stuck"] for saga in self.live())}]

    # Recovery -----------------------------------------------------------------------------------------------------

    def renew_lease(self, process_id: UUID, seconds: float) -> list[Row]:
        lease_until = self.clock() + timedelta(seconds=seconds)
        self.processes.put(process_id, {"process_id": process_id, "lease_until": lease_until})
        return self.read_clock()

    def list_closed_slots(self) -> list[Row]:
        return []

    def give_lease_up(self, process_id: UUID) -> None:
        if self.processes.get(process_id):
            self.processes.delete(process_id)

    def forget_dead_processes(self) -> None:
        owners = {saga["owner"] for saga in self.live()}
        for row in list(self.processes):
            if row["lease_until"] < self.clock() - timedelta(hours=1) and row["process_id"] not in owners:
                self.processes.delete(row["process_id"])

    def take_over(self, process_id: UUID, versions: Collection[int], limit: int) -> list[Row]:
        now = self.clock()
        leased = {row["process_id"] for row in self.processes if row["lease_until"] > now}
        free = [s["saga_id"] for s in self.live() if s["owner"] not in leased and s["version"] in versions]
        return [self.sagas.update(saga_id, owner=process_id) for saga_id in sorted(free)[:limit]]

    def list_own(self, process_id: UUID, versions: Collection[int]) -> list[Row]:
        return [saga for saga in self.live() if saga["owner"] == process_id and saga["version"] in versions]

    def count_unknown_versions(self, versions: Collection[int]) -> list[Row]:
        return [{"count": sum(saga["version"] not in versions for saga in self.live())}]

    # Operators and schedulers -------------------------------------------------------------------------------------

    def find_sagas(self, id_: UUID) -> list[Row]:
        return sorted((s for s in self.sagas if id_ in (s["saga_id"], s["order_id"])), key=lambda s: s["saga_id"])

    def release_sagas(self, sagas: Sequence[UUID]) -> list[Row]:
        return [self.sagas.update(s["saga_id"], owner=NOBODY) for s in self.sagas.find(sagas) if s["status"] in LIVE]

    def force_compensation(self, saga_id: UUID, problem: Mapping[str, Any]) -> list[Row]:
        saga = self.sagas.get(saga_id)
        if saga is None or saga["status"] != "RUNNING":
            return []
        target = "CANCELLED" if saga["kind"] == "pay" else "REJECTED"
        forced = {"status": "COMPENSATING", "target": target, "problem": problem, "owner": NOBODY}
        return [self._save_saga({**saga, **forced})]

    def record_act(self, *values: Any) -> None:
        self.acts.insert(len(self.acts.rows), {"values": values})

    def list_expired(self, limit: int, coupon: bool) -> list[Row]:
        now = self.clock()
        unpaid = [row for row in self.orders if row["status"] == "PENDING_PAYMENT" and row["closing"] is None]
        waiting = [row for row in unpaid if (row["coupon_id"] is not None) == coupon]
        return sorted((row for row in waiting if row["expires_at"] <= now), key=lambda row: row["expires_at"])[:limit]

    def prune_keys(self, after: datetime, limit: int, hours: int) -> list[Row]:
        before = self.clock() - timedelta(hours=hours)
        due = (key for key in self.keys if after <= key["created_at"] < before)
        old = sorted((key for key in due if self._ended(key["saga_id"], before)), key=_age)[:limit]
        for row in old:
            self.keys.delete((row["user_id"], row["operation"], row["key"]))
        return old

    def _ended(self, saga_id: UUID | None, before: datetime) -> bool:
        """Return whether a saga ended before that time, or is pruned."""
        saga = self.sagas.get(saga_id) if saga_id else None
        return saga is None or (saga["ended_at"] is not None and saga["ended_at"] < before)

    def prune_sagas(self, after: UUID, limit: int, days: int) -> list[Row]:
        before = self.clock() - timedelta(days=days)
        due = (saga for saga in self.sagas if saga["saga_id"] > after and saga["ended_at"] is not None)
        old = sorted((saga for saga in due if saga["ended_at"] < before), key=lambda saga: saga["saga_id"])[:limit]
        for row in old:
            self.sagas.delete(row["saga_id"])
        return old

    # Constraints --------------------------------------------------------------------------------------------------

    def _save_order(self, row: Row) -> Row:
        status, subtotal, discount = row["status"], row["subtotal_amount"], row["discount_amount"]
        checked(
            row,
            priced=status not in ("PAID", "PENDING_PAYMENT", "PAYING") or row["total_amount"] is not None,
            discount=discount is None or subtotal is None or 0 <= discount <= subtotal,
            expires=status != "PENDING_PAYMENT" or row["expires_at"] is not None,
            paid=(status in ("PAID", "REFUNDED")) == (row["paid_at"] is not None),
            reason=(status == "REJECTED") == (row["reason"] is not None),
        )
        return self.orders.put(row["order_id"], row)

    def _save_saga(self, row: Row) -> Row:
        checked(
            row,
            target=row["status"] != "COMPENSATING" or row["target"] is not None,
            ended=(row["ended_at"] is None) == (row["status"] in LIVE),
        )
        others = [saga for saga in self.read_live_sagas([row["order_id"]]) if saga["saga_id"] != row["saga_id"]]
        if row["status"] in LIVE and others:
            raise violated("sagas_live")
        return self.sagas.put(row["saga_id"], row)


def _grouped(move: Sequence[Any]) -> Sequence[Any]:
    """Return a transition's columns, with the three columns of its answer as one list."""
    return [*move[:-3], move[-3:]]


def _age(row: Row) -> datetime:
    created_at: datetime = row["created_at"]
    return created_at
