"""No decision rests on a process' own time of day: where it is read at all, it is only told or put into an id."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
READINGS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
# Who may read it, and what for. Deadlines and intervals are measured with the monotonic clock; what has expired and
# whose lease is over is the database's to say.
ALLOWED = {
    "shared/host_clock.py": "it is compared with the database's; where they disagree nothing is started or forgotten",
    "shared/ids.py": "ids carry the time they were made, for the order of indexes",
    "services/order/engine/journal.py": "the timeline tells when this process saw something",
    "services/order/admin/acts.py": "the timeline tells when an operator resolved something",
    "services/order/audit/passes.py": "a report tells when it began",
    "services/relay/kafka/topics.py": "Kafka records carry the time they were sent",
}


def readings(path: Path) -> set[str]:
    """What a file reads of the time of day."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            found |= {reading for reading in READINGS if name == reading or name.endswith(f".{reading}")}
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names} & READINGS
    return found


def test_the_time_of_day_is_read_only_to_tell_it() -> None:
    files = [path for folder in ("services", "shared") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    found = {str(path.relative_to(REPOSITORY)): readings(path) for path in files}
    assert {name for name, what in found.items() if what} == set(ALLOWED)
