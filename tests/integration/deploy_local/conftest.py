from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.deploy_local.local_run import LocalRun


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRun]:
    run = LocalRun(tmp_path / "local")
    yield run
    run.clean_up()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """Start one run for all tests of a module that don't stop it."""
    run = LocalRun(tmp_path_factory.mktemp("run") / "local")
    try:
        yield run.start()
    finally:
        run.clean_up()
