from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.ha_run import HaRun
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.own_ha import why_not


@pytest.fixture
def ha(tmp_path: Path) -> Iterator[HaRun]:
    """A `make ha` that is not started yet."""
    if why := why_not():
        cannot_run(why)
    run = HaRun(tmp_path / "local")
    yield run
    run.clean_up()
