"""What `make consume` says: how far the records are proven complete, or what is wrong and where to look."""

from typing import Any

from deploy.local.consume import listener
from deploy.local.proof import proof

URL = "http://127.0.0.1:8006"


def completeness(**changed: Any) -> dict[str, Any]:
    """Return what the consumer answers when all is well."""
    return {
        "proven_up_to": "2026-01-05T09:31:00Z",
        "dead_letters": 0,
        "forged_count": 0,
        "lost_count": 0,
        "unproven": [],
    } | changed


def a_minute(state: str, bucket: str = "2026-01-05T09:31:00Z") -> dict[str, Any]:
    """Return a minute of a shard that is not proven."""
    return {"bucket": bucket, "shard": 1, "state": state}


def test_proof_says_how_far_it_reaches() -> None:
    line = "complete up to 2026-01-05 09:31:00 UTC: no event is missing, none is forged"
    assert proof(completeness(), URL, colour=False) == f"✓ {line}"
    assert proof(completeness(), URL, colour=True) == f"\x1b[32m✓\x1b[0m {line}"


def test_nothing_is_said_while_nothing_is_known() -> None:
    assert proof(completeness(proven_up_to=None), URL, colour=False) is None


def test_minutes_that_are_not_compared_yet_are_no_fault() -> None:
    line = proof(completeness(unproven=[a_minute("OPEN"), a_minute("STALE")]), URL, colour=False)
    assert line is not None
    assert line.startswith("✓ ")


def test_faults_are_counted_and_say_where_to_look() -> None:
    differing = [a_minute("DIFFERS"), a_minute("DIFFERS"), a_minute("DIFFERS", "2026-01-05T09:32:00Z")]
    found = completeness(unproven=differing, forged_count=1200, dead_letters=1)
    assert proof(found, URL, colour=False) == (
        "✗ complete up to 2026-01-05 09:31:00 UTC; 2 minutes that differ, 1 records that can't be read, "
        "1,200 forged events: http://127.0.0.1:8006/v1/completeness"
    )
    unknown = proof(completeness(proven_up_to=None, lost_count=1), URL, colour=False)
    assert unknown is not None
    assert unknown.startswith("✗ nothing is proven yet; 1 events that a restore has lost: ")


def test_listener_is_reached_on_this_machine() -> None:
    assert listener({}) == URL
    assert listener({"CONSUMER_HOST": "0.0.0.0", "CONSUMER_PORT": "9"}) == "http://127.0.0.1:9"
    assert listener({"CONSUMER_HOST": "::1"}) == "http://[::1]:8006"
