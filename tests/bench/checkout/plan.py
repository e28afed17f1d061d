"""The extent of a measurement: everything, or as much as fits into three minutes."""

from dataclasses import dataclass
from typing import Final

from tests.bench.checkout.load import Load


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds`: per measurement. `sweep_seconds`: per try of a setting."""

    # Clients that buy before the measurement: at first, a new broker interprets its code.
    warm_seconds: int
    # The same for new services, and for a database whose pages are not in memory yet.
    fresh_seconds: int
    rounds: int
    seconds: int
    sweep_seconds: int
    profile_seconds: int
    # The numbers of clients, or threads and style, with which pgbench and the peer are tried for their best.
    pgbench_clients: tuple[int, ...]
    peer_settings: tuple[tuple[str, int], ...]
    # The numbers of order replicas, one after the other, so that compared values are measured within a minute.
    replica_turns: tuple[int, ...]
    # Whether to also measure values that no ratio needs.
    more: bool


FULL: Final = Plan(
    warm_seconds=40,
    fresh_seconds=4,
    rounds=3,
    seconds=6,
    sweep_seconds=3,
    profile_seconds=10,
    pgbench_clients=(4, 8, 16, 64),
    peer_settings=tuple((style, threads) for style in ("step", "transaction") for threads in (2, 4, 8, 16)),
    replica_turns=(1, 2, 2, 1),
    more=True,
)
QUICK: Final = Plan(
    warm_seconds=8,
    fresh_seconds=1,
    rounds=1,
    seconds=2,
    sweep_seconds=1,
    profile_seconds=3,
    pgbench_clients=(8, 16),
    peer_settings=(("step", 4), ("step", 8)),
    replica_turns=(1, 2),
    more=False,
)
# The loads for the ratios, and further ones.
NEEDED: Final = (("cold", 64), ("cold", 1), ("cold", 256), ("hot", 64))
MORE: Final = (("cold", 16), ("later", 64), ("refusals", 64))
KEYED: Final = ("cold", 64)


def loads(plan: Plan) -> list[Load]:
    """Return the loads of a round, in order."""
    found = [Load(scenario, clients, plan.seconds) for scenario, clients in NEEDED]
    if plan.more:
        found += [Load(scenario, clients, plan.seconds) for scenario, clients in MORE]
        found.append(Load(*KEYED, plan.seconds, keyed=True))
    return found


def name_of(load: Load) -> str:
    """Return a load's name in tables and figures."""
    return f"{load.scenario} {load.clients}" + (" keyed" if load.keyed else "")
