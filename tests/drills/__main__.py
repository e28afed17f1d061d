"""`python -m tests.drills`: runs all drills or those that are named, and prints their table."""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from deploy.local.progress import Progress
from tests.drills import kafka_faults, leaders, pooler, postgres_faults, restore, secured, service_faults
from tests.drills.drill import Drill, P, not_run, run
from tests.drills.platform import LONG, SHORT, Pace, Skipped, platform
from tests.drills.table import Row, replaced, table
from tests.faults.process import REPOSITORY
from tests.infrastructure.reaper import Reaper

PAGE = REPOSITORY / "docs" / "drills.md"
OUTPUT = REPOSITORY / ".local" / "drills"


@dataclass(frozen=True, slots=True)
class Group(Generic[P]):
    """Drills that share a platform, one after the other."""

    stage: Callable[[Reaper, Path, Pace], AbstractAsyncContextManager[P]]
    drills: Sequence[Drill[P]]


GROUPS = [
    Group(platform, [*service_faults.DRILLS, *postgres_faults.DRILLS, *kafka_faults.DRILLS]),
    # A restore leads the services to another server, which has no small disk, so nothing follows it.
    Group(platform, restore.DRILLS),
    Group(pooler.pooled, pooler.DRILLS),
    Group(secured.secured, secured.DRILLS),
    Group(leaders.replicated, leaders.DRILLS),
]


def _short(*drills: Sequence[Drill[P]]) -> list[Drill[P]]:
    return [drill for one in drills for drill in one if drill.in_short]


# With little data, one platform can take the drills of several groups. Its three brokers are for the leader's loss.
SHORT_GROUPS = [
    Group(
        leaders.replicated,
        # The restore is the last one here, too.
        _short(service_faults.DRILLS, postgres_faults.DRILLS, kafka_faults.DRILLS, leaders.DRILLS, restore.DRILLS),
    ),
    Group(pooler.pooled, _short(pooler.DRILLS)),
    Group(secured.secured, _short(secured.DRILLS)),
]


async def run_group(group: Group[P], drills: Sequence[Drill[P]], pace: Pace, reaper: Reaper, folder: Path) -> list[Row]:
    """Run these drills one after the other; a platform that a drill has broken ends the group."""
    rows: list[Row] = []
    try:
        async with group.stage(reaper, folder, pace) as running:
            for drill in drills:
                began = time.monotonic()
                with Progress(drill.name):
                    rows.append(await run(drill, running))
                print(f"{drill.name}: {rows[-1].result} ({time.monotonic() - began:.0f} s)", flush=True)
    except Skipped as skipped:
        rows = [not_run(drill, str(skipped)) for drill in drills]
    except Exception as error:  # noqa: BLE001 - the other groups are worth their results
        broken = drills[min(len(rows), len(drills) - 1)]
        rows.append(Row(broken.name, broken.what, wrong=(f"{type(error).__name__}: {error}"[:500],)))
        print(f"{broken.name}: {rows[-1].result}; logs: {OUTPUT}", flush=True)
        rows += [Row(drill.name, drill.what, wrong=("not run",)) for drill in drills[len(rows) :]]
        traceback.print_exc()
        _keep_logs(folder)
    return rows


def _keep_logs(folder: Path) -> None:
    for log in folder.glob("*.log"):
        shutil.copy(log, OUTPUT)
    for log in folder.glob("cell-*/*.log"):
        shutil.copy(log, OUTPUT / f"{log.parent.name}-{log.name}")
    for log in (*folder.glob("*/log"), *folder.glob("*/folder/log")):  # of Postgres servers
        shutil.copy(log, OUTPUT / f"{log.relative_to(folder).parts[0]}.log")


def main(
    groups: Sequence[Group[P]], short_groups: Sequence[Group[P]], page: Path, *, program: str, description: str | None
) -> int:
    """Run the chosen drills; return 1 if one of them failed. `page`: with the table that `--write` replaces."""
    known = [drill.name for group in groups for drill in group.drills]
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--short", action="store_true", help="drills of each kind, each for seconds")
    parser.add_argument("--write", action="store_true", help=f"put the table into {page.name}")
    parser.add_argument("drills", nargs="*", help="only these (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.drills) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    os.environ.setdefault("AUTH_MODE", "open")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for group in short_groups if arguments.short and not arguments.drills else groups:
        drills = [drill for drill in group.drills if drill.name in arguments.drills or not arguments.drills]
        if drills:
            rows += _run(group, drills, SHORT if arguments.short else LONG)
    rendered = table(rows)
    print(f"\n{rendered}")
    if arguments.write:
        page.write_text(replaced(page.read_text(), rendered))
    return int(any(row.wrong for row in rows))


def _run(group: Group[P], drills: Sequence[Drill[P]], pace: Pace) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="order-platform-drills-"))
    folder.chmod(0o755)  # for servers that run as another user
    reaper = Reaper()
    reaper.folder(folder)
    try:
        return asyncio.run(run_group(group, drills, pace, reaper, folder))
    finally:
        reaper.close()


if __name__ == "__main__":
    sys.exit(main(GROUPS, SHORT_GROUPS, PAGE, program="python -m tests.drills", description=__doc__))
