"""`python -m tests.drills.failover`: runs every fault several times, and prints a table with medians."""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from deploy.local.progress import Progress
from tests.drills.__main__ import OUTPUT
from tests.drills.failover.faults import FAULTS, Fault
from tests.drills.failover.rounds import Round, row, rows_of, run, stage, table, verdict_of
from tests.drills.table import replaced
from tests.faults.process import REPOSITORY
from tests.infrastructure.own_ha import why_not
from tests.infrastructure.reaper import Reaper

ROUNDS = 5
PAGE = REPOSITORY / "docs" / "failover.md"


async def run_rounds(faults: Sequence[Fault], rounds: int, reaper: Reaper, folder: Path) -> dict[str, list[Round]]:
    """Run the faults in turn, so many times; a round's result is printed when it ends."""
    found: dict[str, list[Round]] = defaultdict(list)
    for standbys in sorted({fault.standbys for fault in faults}):
        own = _own_folder(folder, standbys)
        own.mkdir()
        own.chmod(0o755)  # for servers that run as another user
        async with stage(reaper, own, standbys) as on:
            for number in range(1, rounds + 1):
                for fault in faults:
                    if fault.standbys == standbys:
                        with Progress(f"{number} {fault.name}"):
                            result = await run(fault, on)
                        found[fault.name].append(result)
                        print(f"{number} {fault.name}: {_in_words(result)}", flush=True)
    return found


def _own_folder(folder: Path, standbys: int) -> Path:
    return folder / f"standbys-{standbys}"


def _in_words(result: Round) -> str:
    seconds = f"{result.without_seconds:.1f} s without a 201, {result.failing_seconds:.1f} s until the last failure"
    seconds += f" ({result.last_failure})" if result.last_failure else ""
    whole = f"whole again {result.whole_seconds:.1f} s after the repair"
    wrong = "; ".join(result.wrong) or f"{result.acknowledged} acknowledged, none lost"
    return f"{seconds}, {whole}; {dict(result.told)}; {wrong}"


def main() -> int:
    """Run the chosen faults; return 1 if one of them showed what it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.failover", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one kill and one switchover")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help=f"put the rows into the table of {PAGE.name}")
    parser.add_argument("faults", nargs="*", help="only these (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - {fault.name for fault in FAULTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(fault.name for fault in FAULTS)}")
    if why := why_not():
        print(why, file=sys.stderr)
        return 1
    os.environ.setdefault("AUTH_MODE", "open")
    faults = [fault for fault in FAULTS if fault.name in arguments.faults or not arguments.faults]
    if arguments.short:
        faults = [fault for fault in faults if fault.in_short]
    rounds = 1 if arguments.short else arguments.rounds
    folder = Path(tempfile.mkdtemp(prefix="order-platform-failover-"))
    folder.chmod(0o755)  # for servers that run as another user
    reaper = Reaper()
    reaper.folder(folder)
    try:
        found = asyncio.run(run_rounds(faults, rounds, reaper, folder))
    finally:
        for log in (*folder.glob("*/*.log"), *folder.glob("*/ha/*.log")):
            kept = OUTPUT / log.relative_to(folder).parts[0]
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, kept)
        reaper.close()
    rows = {fault.name: row(fault, found[fault.name]) for fault in faults}
    print(f"\n{table(rows.values())}")
    if arguments.write:
        page = PAGE.read_text()
        rows = rows_of(page) | rows
        PAGE.write_text(replaced(page, table(rows[fault.name] for fault in FAULTS if fault.name in rows)))
    return int(any(verdict_of(fault, found[fault.name]) for fault in faults))


if __name__ == "__main__":
    sys.exit(main())
