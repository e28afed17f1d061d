"""Every environment is locked by hash, to one version of each package, and not to a particular index."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = sorted(
    [
        *REPOSITORY.glob("services/*/requirements.lock"),
        REPOSITORY / "deploy" / "client" / "requirements.lock",
        REPOSITORY / "deploy" / "console" / "requirements.lock",
        REPOSITORY / "deploy" / "consumer" / "requirements.lock",
        REPOSITORY / "deploy" / "local" / "requirements.lock",
        REPOSITORY / "deploy" / "orderctl" / "requirements.lock",
        REPOSITORY / "deploy" / "ops" / "requirements.lock",
        REPOSITORY / "tests" / "requirements.lock",
    ]
)
PIN = re.compile(
    r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", re.M
)


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def versions(lock: Path) -> dict[str, str]:
    return {name: version for name, version, _ in PIN.findall(lock.read_text())}


def test_every_service_has_a_lock() -> None:
    services = {path.parent for path in REPOSITORY.glob("services/*/__init__.py")}
    assert {lock.parent for lock in LOCKS} >= services


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_lock_only_pins_packages_by_hash(lock: Path) -> None:
    rest = re.sub(r"^    #.*\n", "", PIN.sub("", lock.read_text()), flags=re.M)
    assert rest == ""


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_all_locks_agree_with_the_one_that_is_tested(lock: Path) -> None:
    tested = versions(REPOSITORY / "tests" / "requirements.lock")
    assert versions(lock).items() <= tested.items()


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_required_packages_are_locked(lock: Path) -> None:
    asked = re.findall(r"^([a-z0-9-]+)", (lock.parent / "requirements.in").read_text(), re.M)
    assert set(asked) - {"-r"} <= versions(lock).keys()
