"""A profile's results as tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.checkout.purposes import SAFETY, normalised, sql_purposes
from tests.bench.checkout.round import Measured
from tests.bench.checkout.stacks import Stacks
from tests.bench.checkout.statements import Statement, label, names, round_trips

TOP = 25
TOP_FUNCTIONS = 12


@dataclass(frozen=True, slots=True)
class Findings:
    """All results. `backends`: CPU seconds of Postgres' processes; `queries`: by text, shares by purpose."""

    measured: Measured
    backends: Mapping[str, float]
    statements: Sequence[Statement]
    stacks: Mapping[str, Stacks]
    queries: Mapping[str, Mapping[str, float]]

    def per_checkout(self, amount: float) -> float:
        """Return an amount per checkout."""
        return self.measured.per_checkout(amount)

    def sql_purposes(self) -> Mapping[str, float]:
        """Return the shares of Postgres' statement time, by purpose."""
        return normalised(sql_purposes(self.statements, self.queries))

    def python_purposes(self) -> Mapping[str, float]:
        """Return the shares of the services' own CPU, by purpose, weighted by their CPU in the first load."""
        sums: dict[str, float] = {}
        for service, stacks in self.stacks.items():
            for purpose, weight in stacks.purposes(service).items():
                sums[purpose] = sums.get(purpose, 0.0) + weight * self.measured.used.cpu[service]
        return normalised(sums)

    def purposes(self) -> Mapping[str, float]:
        """Return a checkout's CPU by purpose, in seconds: services and Postgres, without the broker and wrk."""
        used = self.measured.used.cpu
        sql, python = self.sql_purposes(), self.python_purposes()
        python_seconds = sum(used[service] for service in self.stacks)
        both = {*sql, *python}
        return {
            purpose: self.per_checkout(sql.get(purpose, 0) * used["postgres"] + python.get(purpose, 0) * python_seconds)
            for purpose in sorted(both)
        }

    def safety_share(self) -> float:
        """Return the share of fences, stored outcomes, ledger and saga record."""
        purposes = self.purposes()
        return sum(purposes.get(name, 0.0) for name in SAFETY) / sum(purposes.values())

    def view(self) -> Mapping[str, Any]:
        """Return everything as JSON."""
        return {
            "checkouts_per_second": self.measured.answers.rate,
            "latency_us": self.measured.answers.latency,
            "cpu_us": {name: self.per_checkout(cpu) * 1e6 for name, cpu in self.measured.used.cpu.items()},
            "transactions": self.per_checkout(self.measured.used.transactions),
            "wal_bytes": self.per_checkout(self.measured.used.wal_bytes),
            "round_trips": {name: self.per_checkout(n) for name, n in round_trips(self.statements).items()},
            "purposes_us": {name: seconds * 1e6 for name, seconds in self.purposes().items()},
            "safety_share": self.safety_share(),
        }


def print_findings(findings: Findings) -> None:
    """Print the tables."""
    measured, per = findings.measured, findings.per_checkout
    answers = measured.answers
    load = measured.load
    print(f"\n{load.scenario}, {load.clients} clients: {answers.rate:,.0f} checkouts/s", end=", ")
    print(", ".join(f"{name} {us / 1000:.1f} ms" for name, us in answers.latency.items()))
    _print_hops(findings)
    print(f"\n{per(measured.used.transactions):.3f} writing transactions and ", end="")
    print(f"{per(measured.used.wal_bytes):,.0f} bytes of WAL a checkout")
    _print_statements(findings)
    for service, stacks in findings.stacks.items():
        seconds = measured.used.cpu[service]
        _print_shares(f"{service}: whose code", stacks.by_part(), per(seconds) * 1e6)
        _print_shares(f"{service}: innermost function of ours", stacks.by_function(), per(seconds) * 1e6)
    _print_shares("What a checkout's CPU is for", findings.purposes(), sum(findings.purposes().values()) * 1e6)
    print(f"\nfences, stored outcomes, ledger and saga record: {findings.safety_share():.1%} of the CPU of a checkout")


def _print_hops(findings: Findings) -> None:
    used = findings.measured.used.cpu
    per = findings.per_checkout
    trips = round_trips(findings.statements)
    print("\nCPU a checkout, us")
    total = sum(used.values())
    for name, seconds in sorted(used.items(), key=lambda item: -item[1]):
        service = name.partition("-")[0]
        asked = f"{per(trips[service]):8.3f} round trips to Postgres" if service in trips else ""
        print(f"  {name:<28}{per(seconds) * 1e6:8.0f}{seconds / total:7.1%}  {asked}")
    print(f"  {'together':<28}{per(total) * 1e6:8.0f}")
    print("of Postgres, by connection or process")
    for name, seconds in sorted(findings.backends.items(), key=lambda item: -item[1]):
        if per(seconds) * 1e6 >= 1:
            print(f"  {name:<28}{per(seconds) * 1e6:8.0f}")


def _print_statements(findings: Findings) -> None:
    known = names()
    per = findings.per_checkout
    print(
        f"\n{'statement':<48}{'us':>8}{'calls':>9}{'rows a call':>13}{'us a call':>11}{'WAL bytes':>11}  (a checkout)"
    )
    for statement in findings.statements[:TOP]:
        name = f"{statement.service} {label(statement.query, known)}" + ("" if statement.toplevel else " (inner)")
        microseconds = statement.milliseconds * 1000
        calls = statement.calls
        print(
            f"{name[:47]:<48}{per(microseconds):8.1f}{per(calls):9.4f}{statement.rows / calls:13.1f}"
            f"{microseconds / calls:11.0f}{per(statement.wal_bytes):11.0f}"
        )


def _print_shares(title: str, sums: Mapping[str, float], microseconds: float) -> None:
    print(f"\n{title}")
    for name, share in _most(normalised(sums).items()):
        print(f"  {name[:70]:<72}{share * microseconds:8.1f} us{share:7.1%}")


def _most(items: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(items, key=lambda item: -item[1])[:TOP_FUNCTIONS]
