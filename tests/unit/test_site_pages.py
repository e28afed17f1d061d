"""The site of the documents shows each document as a code host does (docs/site/pages.py)."""

import re
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from docs.site.pages import Site, anchor_of, configuration, documents, page_of, write

REPOSITORY = Path(__file__).parents[2]
KEPT = REPOSITORY / "docs" / "site" / "kept"
PAGE = REPOSITORY / "docs" / "README.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages, and the configuration."""
    folder = tmp_path_factory.mktemp("site") / "source"
    write(folder)
    return folder


def page(tmp_path: Path, text: str, *others: str) -> str:
    """Return the page of a document with this text. `others`: files that are there too."""
    for name in ("docs/a.md", *others):
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if name == "docs/a.md" else "# Other\n")
    Site(tmp_path / "site", tmp_path / "repository").write()
    return (tmp_path / "site" / "a.md").read_text()


def entries(nav: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for found in entry.values():
                yield from entries(found if isinstance(found, list) else [found])


def test_every_document_is_in_the_navigation_once(written: Path) -> None:
    nav = tomllib.loads((written / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(entries(nav)) == sorted(page_of(document) for document in documents())


def test_the_first_page_leads_to_every_other_one() -> None:
    """Others have a list of their own: decisions, alerts, the changelogs of services, and the pages in Korean."""
    linked = {
        (PAGE.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\((\S+?)\)", PAGE.read_text())
    }
    expected = {
        (REPOSITORY / document).resolve()
        for document in documents()
        if document.parts[:2] not in {("docs", "decisions"), ("docs", "runbook"), ("docs", "ko")}
        and not (document.parts[0] == "services" and document.name == "CHANGELOG.md")
    }
    assert expected - linked == {PAGE.resolve()}


def test_documents_of_a_folder_are_listed_with_their_headings(written: Path) -> None:
    text = configuration(written / "pages")
    assert '{ "Decisions" = [{ "Decisions" = "decisions/index.md" }, { "0001: ' in text
    assert '"Alerts" = [{ "AnswersSlow" = "runbook/AnswersSlow.md" }' in text


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("docs/api.md", "api.md"),
        ("docs/README.md", "index.md"),
        ("docs/decisions/README.md", "decisions/index.md"),
        ("docs/runbook/QueueFull.md", "runbook/QueueFull.md"),
        ("README.md", "platform.md"),
        ("CHANGELOG.md", "changelog.md"),
        ("services/order/README.md", "services/order/index.md"),
    ],
)
def test_document_has_a_page_at_a_place_that_a_reader_expects(document: str, found: str) -> None:
    assert page_of(Path(document)) == found


def test_links_lead_to_pages_and_other_files_are_shown_as_text(tmp_path: Path) -> None:
    text = "# A\n[b](../services/b/README.md#x), [c](../c.py), [d](d.json), `[e](f)`, [g](https://g), [h](#h)\n"
    others = ("services/b/README.md", "c.py", "docs/d.json")
    shown = (
        "[b](services/b/index.md#x), [c](files/c.py.txt), [d](files/docs/d.json), `[e](f)`, [g](https://g), [h](#h)\n"
    )
    assert page(tmp_path, text, *others).partition("\n")[2] == shown
    assert (tmp_path / "site/files/c.py.txt").exists()


def test_link_that_leads_nowhere_is_left_for_the_generator_to_report(tmp_path: Path) -> None:
    assert page(tmp_path, "[b](../nothing.py#x)\n") == "[b](../nothing.py#x)\n"


def test_a_linked_folder_is_its_readme_or_a_list_of_its_files(tmp_path: Path) -> None:
    shown = page(tmp_path, "# A\n[b](b), [c](c/)\n", "docs/b/README.md", "docs/c/d.py")
    assert shown.endswith("[b](b/index.md), [c](files/docs/c/index.md)\n")
    assert "- [d.py](d.py.txt)" in (tmp_path / "site/files/docs/c/index.md").read_text()


def test_text_of_list_items_is_indented_by_four(tmp_path: Path) -> None:
    text = "1. one\n   more\n\n   ```sh\n   [x](y)\n     deeper\n   ```\n2. two\n   - inner\n     text\n\nafter\n"
    shown = (
        "1. one\n    more\n\n    ```sh\n    [x](y)\n      deeper\n    ```\n2. two\n    - inner\n        text\n\nafter\n"
    )
    assert page(tmp_path, text) == shown


def test_code_is_not_changed(tmp_path: Path) -> None:
    text = "```sh\n# a\n- [b](c)\n```\n\n    - [b](c)\n    # a\n"
    assert page(tmp_path, text) == text


def test_comments_about_the_run_of_a_block_are_not_shown(tmp_path: Path) -> None:
    assert page(tmp_path, "# A\n\n<!-- run: by tests/x.py -->\n```sh\n<!-- b -->\n```\n").endswith(
        "\n\n```sh\n<!-- b -->\n```\n"
    )


def test_bars_in_code_in_a_table_have_no_backslash(tmp_path: Path) -> None:
    assert page(tmp_path, "| `a\\|b` | c \\| d |\n") == "| `a|b` | c \\| d |\n"


def test_equal_headings_have_different_anchors(tmp_path: Path) -> None:
    assert page(tmp_path, "## `A` b\n## `A` b\n") == "## `A` b { #a-b }\n## `A` b { #a-b-1 }\n"


@pytest.mark.parametrize(
    ("heading", "anchor"), [("Where is …", "where-is-"), ("A [b](c.md)", "a-b"), ("문서, 둘", "문서-둘")]
)
def test_anchor_is_that_of_a_code_host(heading: str, anchor: str) -> None:
    assert anchor_of(heading) == anchor


@pytest.mark.parametrize("name", ["mermaid", "iframe-worker"])
def test_kept_scripts_are_those_of_their_record(name: str) -> None:
    record = tomllib.loads((KEPT / f"{name}.toml").read_text())
    found = {
        path.name: sha256(path.read_bytes()).hexdigest() for path in KEPT.glob(f"{name}.*") if path.suffix != ".toml"
    }
    assert found == record["sha256"]
    assert record["license"] == "MIT"
    assert record["version"]
