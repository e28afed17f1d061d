"""The pages of docs/reference are what the code says: `make reference` writes them."""

from pathlib import Path

import pytest

from docs.site.reference import PAGES, outdated, write

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """All pages, made now."""
    write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_says(written: Path, name: str) -> None:
    page = f"{name}.md"
    assert (REFERENCE / page).read_text() == (written / page).read_text(), "run make reference"


def test_outdated_pages_are_named(written: Path) -> None:
    assert outdated(written) == []
    page = written / "settings.md"
    page.write_text(page.read_text() + "| more |\n")
    (written / "orderctl.md").unlink()
    assert outdated(written) == ["settings.md", "orderctl.md"]


def test_every_page_is_written() -> None:
    assert {page.stem for page in REFERENCE.iterdir()} == set(PAGES)
