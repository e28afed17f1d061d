"""No decision depends on a process' own time of day: its value is only reported or put into an id."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
READINGS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
# The files that may read it, and the purpose. The monotonic clock measures deadlines and intervals. The database's
# clock decides expiry and leases.
ALLOWED = {
    "shared/postgres/clocks.py": "compared with the database's; where they disagree nothing is started or forgotten",
    "shared/identity/authenticator.py": "a token says until when it is valid, by its issuer's clock",
    "shared/tls.py": "a metric tells how long a certificate is still valid",
    "shared/ids.py": "ids carry the time they were made, for the order of indexes",
    "services/order/engine/journal.py": "the timeline tells when this process saw something",
    "services/order/admin/acts.py": "the timeline tells when an operator resolved something",
    "services/order/audit/passes.py": "a report tells when it began",
    "services/relay/kafka/topics.py": "Kafka records carry the time they were sent",
}


def readings(path: Path) -> set[str]:
    """Return a file's reads of the time of day."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            found |= {reading for reading in READINGS if name == reading or name.endswith(f".{reading}")}
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names} & READINGS
    return found


def test_only_allowed_files_read_the_wall_clock() -> None:
    files = [path for folder in ("services", "shared") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    found = {str(path.relative_to(REPOSITORY)): readings(path) for path in files}
    assert {name for name, what in found.items() if what} == set(ALLOWED)
