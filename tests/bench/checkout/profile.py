"""`make bench-profile`: divides the time of a checkout, hop by hop, and shows the cost of its safety.

Two loads after one another on the same services: in the first only what is counted anyway is read (CPU, statements,
transactions, WAL); in the second py-spy samples the processes and auto_explain the plans, which costs what it measures.
A third load, on services of its own, shows what idle cores wait for (tests/bench/checkout/idle).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.local.progress import Progress
from tests.bench.checkout import plans, stacks, statements
from tests.bench.checkout.catalogue import Catalogue, make_catalogue
from tests.bench.checkout.idle import report
from tests.bench.checkout.idle.measuring import record, require_sampler
from tests.bench.checkout.load import Load
from tests.bench.checkout.meters import process_seconds
from tests.bench.checkout.profile_report import Findings, print_findings
from tests.bench.checkout.round import UsedCatalogue, buy, measure
from tests.bench.checkout.shop import Shop, running_shop
from tests.bench.servers import POSTGRES_SETTINGS, REPOSITORY, MissingError, Servers, find_tool, servers
from tests.infrastructure.postgres import packaged_binaries, system_binaries

SAMPLES_A_SECOND = 200
PY_SPY = REPOSITORY / ".venv-profile" / "bin" / "py-spy"
WARM_SECONDS = 8  # a new Java process compiles its code on the measured cores
LIBRARIES = ("pg_stat_statements", "auto_explain")
OUTPUT = REPOSITORY / ".local"


# The settings for counting during the first load, and for sampling during the second; both cost nothing when off. Not
# on the server's command line, which would override a change.
IDLE = {"pg_stat_statements.track": "none", "auto_explain.log_min_duration": "-1", "auto_explain.sample_rate": "0"}
COUNTING = {"pg_stat_statements.track": "all"}
SAMPLING = {"auto_explain.log_min_duration": "0", "auto_explain.sample_rate": str(plans.SAMPLE_RATE)}


def profile_on(started: Servers, catalogue: Catalogue, load: Load, *, orders: int, native: bool) -> Findings:
    """Run both loads on servers started with `profiler_settings`. Raises LoadError or BooksError."""
    with psycopg.connect(started.postgres_url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with running_shop(started, catalogue, orders=orders) as shop:
        used_catalogue = UsedCatalogue(find_tool("wrk", "wrk"), seed=1)
        buy(shop, Load(load.scenario, load.clients, WARM_SECONDS, load.keyed), used_catalogue)
        with _changed(started.postgres_url, COUNTING):
            statements.reset(started.postgres_url)
            before = backend_seconds(started.postgres_url)
            measured = measure(started, shop, load, used_catalogue)
            after = backend_seconds(started.postgres_url)
            counted = statements.read(started.postgres_url)
        sampled, queries = _sample(started, shop, load, used_catalogue, native=native)
        shop.audit()
    if not counted or not queries:
        raise RuntimeError(f"Postgres counted {len(counted)} statements, and sampled the plans of {len(queries)}")
    used = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    return Findings(measured, used, counted, sampled, queries)


def profiler_settings() -> list[str]:
    """Return Postgres' settings for servers that will be profiled."""
    return [f"shared_preload_libraries={','.join(LIBRARIES)}", *statements.SETTINGS, *plans.SETTINGS]


def require_profiler() -> None:
    """Raise MissingError unless this machine has the tools for a profile."""
    if not PY_SPY.exists():
        raise MissingError(f"{PY_SPY} is missing: `make bench-profile` installs it")
    binaries = system_binaries() or packaged_binaries()
    config = binaries / "pg_config"
    folder = subprocess.run([config, "--pkglibdir"], capture_output=True, text=True, check=True).stdout.strip()
    missing = [name for name in LIBRARIES if not (Path(folder) / f"{name}.so").exists()]
    if missing:
        raise MissingError(
            f"{binaries} has no {', '.join(missing)}: install a Postgres with its contrib modules "
            "(Debian, Ubuntu: apt-get install postgresql)"
        )


def backend_seconds(url: str) -> Mapping[str, float]:
    """Return the CPU of the server's live processes, by purpose."""
    query = """
        SELECT pid, coalesce(nullif(application_name, ''), backend_type) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid()
    """
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(query).fetchall()
    sums: dict[str, float] = {}
    for pid, name in rows:
        sums[str(name)] = sums.get(str(name), 0.0) + process_seconds(pid)
    return sums


def _sample(
    started: Servers, shop: Shop, load: Load, used_catalogue: UsedCatalogue, *, native: bool
) -> tuple[Mapping[str, stacks.Stacks], Mapping[str, Mapping[str, float]]]:
    """Run the load again while stacks and plans are sampled."""
    with psycopg.connect(started.postgres_url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    log = statements.server_log(Path(row[0]))
    already = log.stat().st_size
    with _changed(started.postgres_url, SAMPLING):
        paths = {name: OUTPUT / f"bench-profile-{name}.speedscope.json" for name in shop.processes}
        spies = [_spy(shop.processes[name].pid, path, load.seconds, native=native) for name, path in paths.items()]
        buy(shop, load, used_catalogue)
        for spy in spies:
            if spy.wait(60) != 0:
                raise RuntimeError(f"py-spy ended with {spy.returncode}; it needs the right to trace other processes")
    with log.open() as file:
        file.seek(already)
        found = plans.shares(plans.sampled(file.read()))
    return {name: stacks.load_speedscope(path) for name, path in paths.items()}, found


@contextmanager
def _changed(url: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Apply these settings to the server while the body runs."""
    _set(url, settings)
    yield
    _set(url, {name: IDLE[name] for name in settings})


def idle(started: Servers) -> None:
    """Switch counting and sampling off on servers that were started with `profiler_settings`."""
    _set(started.postgres_url, IDLE)


def _set(url: str, settings: Mapping[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        connection.execute("SELECT pg_reload_conf()")


def _spy(pid: int, path: Path, seconds: int, *, native: bool) -> "subprocess.Popen[bytes]":
    command = [str(PY_SPY), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(SAMPLES_A_SECOND)]
    # The process is not stopped for samples, because a stop distorts more; an inconsistent sample is dropped.
    command += ["--format", "speedscope", "--output", str(path), *(["--native"] if native else ["--nonblocking"])]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(arguments: Sequence[str]) -> int:
    """Profile with the command line's arguments. Exit status: 0, or 2 if this machine lacks the tools."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checkout.profile", description=__doc__)
    parser.add_argument("--scenario", choices=["cold", "hot", "later", "refusals"], default="cold")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--orders", type=int, default=1, help="replicas of the order service")
    parser.add_argument("--native", action="store_true", help="sample C code too, which stops the processes for it")
    parser.add_argument("--keyed", action="store_true", help="send an Idempotency-Key with each request")
    parser.add_argument("--only-idle", action="store_true", help="only the load that shows what idle cores wait for")
    parser.add_argument("--write", action="store_true", help=f"put what idle cores wait for into {report.PAGE.name}")
    options = parser.parse_args(arguments)
    OUTPUT.mkdir(exist_ok=True)
    try:
        load = Load(options.scenario, options.clients, options.seconds, options.keyed)
        find_tool("wrk", "wrk")
        require_sampler()
        if not options.only_idle:
            require_profiler()
        with servers([*POSTGRES_SETTINGS, *([] if options.only_idle else profiler_settings())]) as started:
            catalogue = make_catalogue(started.postgres_url)
            if not options.only_idle:
                idle(started)
                with Progress("profiling"):
                    findings = profile_on(started, catalogue, load, orders=options.orders, native=options.native)
                _show(findings)
            with Progress("recording what idle cores wait for"):
                recording = record(started, catalogue, load, orders=options.orders)
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{report.summary(recording, load)}\n\n{report.tables(recording)}")
    (OUTPUT / "bench-profile-idle.svg").write_text(report.picture(recording, load))
    print(f"\nOne second of it: {OUTPUT}/bench-profile-idle.svg")
    if options.write:
        report.write(recording, load)
    return 0


def _show(findings: Findings) -> None:
    print_findings(findings)
    (OUTPUT / "bench-profile.json").write_text(json.dumps(findings.view(), indent=1))
    print(f"\nFlame graphs: open {OUTPUT}/bench-profile-*.speedscope.json in https://www.speedscope.app")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
