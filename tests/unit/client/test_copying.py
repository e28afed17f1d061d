"""The client's folder can be copied: it imports itself by relative names, and nothing else but its requirements."""

from pathlib import Path

from tests.infrastructure.imports import imported_by

FOLDER = Path(__file__).parents[3] / "deploy" / "client"


def test_requirements_name_every_package_that_the_client_imports_and_no_other() -> None:
    assert imported_by(FOLDER) == set((FOLDER / "requirements.in").read_text().split())
