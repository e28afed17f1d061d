"""With CI=true, a test that lacks a program fails; elsewhere it is skipped."""

from collections.abc import Iterator

import pytest

from tests.infrastructure.broker import why_no_maven
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.reaper import Reaper


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without programs."""
    monkeypatch.setenv("PATH", "")
    why_no_maven.cache_clear()
    yield
    why_no_maven.cache_clear()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
@pytest.mark.usefixtures("no_programs")
def test_broker_of_its_own_without_java_fails_in_ci_and_is_skipped_elsewhere(
    reaper: Reaper, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="java or mvn is missing"):
        OwnBroker(reaper)
