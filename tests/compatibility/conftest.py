"""The previous version, extracted once."""

import pytest

from tests.compatibility.previous import Version, previous_version


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The sources of the previous version, and a Python with its packages."""
    return previous_version(tmp_path_factory.mktemp("previous"))
