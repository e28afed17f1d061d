"""The values of all rounds, by name; and as tables, JSON and figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.checkout.figures import Spread
from tests.bench.checkout.peer import PeerSold
from tests.bench.checkout.pgbench import Written
from tests.bench.checkout.plan import name_of
from tests.bench.checkout.round import Measured


@dataclass(slots=True)
class Results:
    """Every value of every round. `values`: by the names of figures.py, and others."""

    values: dict[str, list[float]] = field(default_factory=dict)
    raw: list[Mapping[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def product(self, measured: Measured, number: int) -> None:
        """Add a measurement of the product."""
        row = self._row(measured, 1, number)
        name = row["name"]
        self.add(name, row["rate"])
        for percentile in ("p50", "p99"):
            self.add(f"{name} {percentile}", measured.answers.latency[percentile])
        for who, us in row["cpu_us"].items():
            self.add(f"{name} cpu {who}", us)
        self.add(f"{name} cpu", product_cpu(row))
        self.add(f"{name} transactions", row["transactions"])
        self.add(f"{name} wal", row["wal_bytes"])

    def replicas(self, measured: Measured, orders: int, number: int) -> None:
        """Add a measurement that compares one replica of the order service with several."""
        row = self._row(measured, orders, number)
        self.add(f"cpu {orders} order" + ("s" if orders > 1 else ""), product_cpu(row))
        if orders > 1:
            self.add(f"{row['name']} by {orders} orders", row["rate"])

    def _row(self, measured: Measured, orders: int, number: int) -> Mapping[str, Any]:
        row: dict[str, Any] = {
            "round": number,
            "what": "product",
            "name": name_of(measured.load),
            "orders": orders,
            "rate": measured.answers.rate,
            "refused": measured.answers.refused,
            "latency_us": measured.answers.latency,
            "cpu_us": {who: measured.per_checkout(seconds) * 1e6 for who, seconds in measured.used.cpu.items()},
            "transactions": measured.per_checkout(measured.used.transactions),
            "wal_bytes": measured.per_checkout(measured.used.wal_bytes),
        }
        self.raw.append(row)
        return row

    def pgbench(self, written: Written, number: int) -> None:
        """Add a measurement of pgbench."""
        name = f"pgbench {written.shape}" + (" hot" if written.hot else "")
        row: dict[str, Any] = {
            "round": number,
            "what": "pgbench",
            "name": name,
            "clients": written.clients,
            "rate": written.rate,
            "p50_us": written.median_us,
            "cpu_us": {"postgres": written.used.cpu["postgres"] / written.checkouts * 1e6},
            "transactions": written.used.transactions / written.checkouts,
            "wal_bytes": written.used.wal_bytes / written.checkouts,
        }
        self.raw.append(row)
        if written.clients == 1:
            assert written.median_us is not None
            self.add(f"{name} 1 client", written.rate)
            self.add(f"{name} 1 client p50", written.median_us)
            return
        self.add(name, written.rate)
        self.add(f"{name} cpu", row["cpu_us"]["postgres"])
        self.add(f"{name} transactions", row["transactions"])
        self.add(f"{name} wal", row["wal_bytes"])

    def peer(self, sold: PeerSold, number: int) -> None:
        """Add a measurement of the peer."""
        self.raw.append({"round": number, "what": "peer", **asdict(sold)})
        self.add("peer", sold.rate)
        self.add("peer p50", sold.p50_us)

    def add(self, name: str, value: float) -> None:
        """Add a value."""
        self.values.setdefault(name, []).append(value)

    def spreads(self) -> dict[str, Spread]:
        """Return medians and ranges by name."""
        return {name: Spread.of(values) for name, values in self.values.items()}

    def medians(self) -> dict[str, float]:
        """Return medians by name."""
        return {name: spread.median for name, spread in self.spreads().items()}


def product_cpu(row: Mapping[str, Any]) -> float:
    """Return the CPU of the product, including the broker, without the load."""
    cpu: Mapping[str, float] = row["cpu_us"]
    return sum(us for who, us in cpu.items() if who != "wrk")
