"""Copies the documents of this repository into one folder, in the form that the generator of the site understands.

A document stays as a code host shows it. Its copy differs in four ways: each link leads to the page or file of the
site, each heading has the anchor that a code host gives it, lists are indented by four, as Python-Markdown wants, and
pictures follow the colours that a reader has chosen on the site.
`make docs` runs it.
"""

import json
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = Path("docs/site")  # this folder, which has no pages
CONFIGURATION = REPOSITORY / SITE / "zensical.toml"
ASSETS = ("kept", "style.css", "tables.js", "favicon.svg")
# A file that is not a page opens in the browser as text. Browsers show these as they are.
SHOWN = {".json", ".png", ".svg", ".txt"}

FENCE = re.compile(r" *(`{3,})")
ITEM = re.compile(r" *(?:[-*]|\d+\.) +")
HEADING = re.compile(r"(#{1,6}) (.+)")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
COMMENT = re.compile(r" *<!-- .* -->")  # how a test runs the next block
# A picture in light and in dark, as code hosts show it; and as the site does.
PICTURE = re.compile(
    r'<picture>\n<source media="\(prefers-color-scheme: dark\)" srcset="(.+?)">\n'
    r'<img src="(.+?)" alt="(.+?)">\n</picture>'
)
PICTURES = r"![\3](\2#only-light)\n![\3](\1#only-dark)"
CODE_SPAN = re.compile(r"(`+).+?\1")
FOLDER_IN_NAV = re.compile(r'"(\S+/)\*"')


def documents(repository: Path = REPOSITORY) -> list[Path]:
    """Return the paths of all documents, relative to the repository."""
    patterns = ("*.md", "docs/**/*.md", "services/*/*.md", "deploy/*/*.md")
    found = {path.relative_to(repository) for pattern in patterns for path in repository.glob(pattern)}
    return sorted(path for path in found if not path.is_relative_to(SITE))


def page_of(document: Path) -> str:
    """Return the path of a document's page: what is in docs/ comes first, and a README is the page of its folder."""
    if document == Path("README.md"):
        return "platform.md"
    inside = document.relative_to("docs") if document.parts[0] == "docs" else document
    if inside.name == "README.md":
        return inside.with_name("index.md").as_posix()
    return (inside.with_name(inside.name.lower()) if inside.stem.isupper() else inside).as_posix()


def file_of(path: Path) -> str:
    """Return where the site has a file that is no page."""
    suffix = "" if path.suffix in SHOWN else ".txt"
    return f"files/{path.as_posix()}{suffix}"


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading, as code hosts create it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


class Site:
    """Writes pages and the files to which they link."""

    def __init__(self, folder: Path, repository: Path = REPOSITORY) -> None:
        self.folder = folder
        self.repository = repository
        self.pages = {document: page_of(document) for document in documents(repository)}
        self.files: set[Path] = set()

    def write(self) -> None:
        """Write all pages, and the files to which they link."""
        for document, page in self.pages.items():
            self._write(page, "".join(self.lines(document)))
        for path in sorted(self.files):
            if (self.repository / path).is_dir():
                self._write_folder(path)
            else:
                self._copy(path)

    def lines(self, document: Path) -> Iterator[str]:
        """Yield the lines of a document's page."""
        fence = ""
        columns: list[int] = []  # where the text of each open list item begins
        anchors: dict[str, int] = {}
        for line in PICTURE.sub(PICTURES, (self.repository / document).read_text()).splitlines():
            if COMMENT.fullmatch(line) and not fence:
                continue
            text = line.lstrip(" ")
            column = len(line) - len(text)
            if text and not fence:
                columns = [start for start in columns if start <= column]
            inner = columns[-1] if columns else 0
            moved = " " * (4 * len(columns) + max(column - inner, 0)) + text if text else ""
            if opening := FENCE.match(line):
                fence = opening[1] if not fence else "" if text.startswith(fence) else fence
            elif not fence and not self._is_code(column - inner, columns, text):
                if item := ITEM.match(line):
                    columns.append(item.end())
                    text = text[: item.end() - column].rstrip() + " " + text[item.end() - column :]
                    moved = " " * 4 * (len(columns) - 1) + text
                moved = self._linked(document, moved)
                if text.startswith("|"):  # Python-Markdown shows the backslash that code in a table needs elsewhere
                    moved = CODE_SPAN.sub(lambda span: span[0].replace("\\|", "|"), moved)
                if heading := HEADING.fullmatch(moved):
                    anchor = anchor_of(HEADING.fullmatch(line)[2])  # type: ignore[index]
                    count = anchors[anchor] = anchors.get(anchor, -1) + 1
                    moved = f"{heading[1]} {heading[2]} {{ #{anchor}{f'-{count}' if count else ''} }}"
            yield moved + "\n"

    @staticmethod
    def _is_code(column: int, columns: Sequence[int], text: str) -> bool:
        return column >= 4 and not columns and bool(text)

    def _linked(self, document: Path, line: str) -> str:
        """Return a line with links that lead to the site's pages and files."""
        code = [match.span() for match in CODE_SPAN.finditer(line)]

        def replaced(match: re.Match[str]) -> str:
            if any(start < match.start() < end for start, end in code):
                return match[0]
            return match[1] + self.target(document, match[2]) + match[3]

        return LINK.sub(replaced, line)

    def target(self, document: Path, link: str) -> str:
        """Return a link of a document as a link of its page."""
        path, mark, anchor = link.partition("#")
        if "://" in link or not path:
            return link
        goal = Path(posixpath.normpath((document.parent / path).as_posix()))
        goal = goal / "README.md" if goal / "README.md" in self.pages else goal
        if goal in self.pages:
            found = self.pages[goal]
        elif (self.repository / goal).is_dir():
            self.files.add(goal)
            found = f"files/{goal.as_posix()}/index.md"
        elif not (self.repository / goal).exists():
            return link  # the generator says where it stands
        else:
            self.files.add(goal)
            found = file_of(goal)
        return posixpath.relpath(found, posixpath.dirname(self.pages[document]) or ".") + mark + anchor

    def _write_folder(self, path: Path) -> None:
        names = sorted(child.name for child in (self.repository / path).iterdir() if child.is_file())
        for name in names:
            self._copy(path / name)
        rows = "".join(f"- [{name}]({posixpath.basename(file_of(path / name))})\n" for name in names)
        self._write(f"files/{path.as_posix()}/index.md", f"# {path.as_posix()}\n{rows and chr(10)}{rows}")

    def _copy(self, path: Path) -> None:
        copy = self.folder / file_of(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.repository / path, copy)

    def _write(self, page: str, text: str) -> None:
        path = self.folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def title_of(page: Path) -> str:
    """Return the heading of a page, as a text."""
    heading = page.read_text().splitlines()[0]
    return re.sub(r" \{ #.* \}$", "", heading).removeprefix("# ").replace("`", "")


def configuration(pages: Path) -> str:
    """Return the configuration, in which each `folder/*` has become a list of the folder's pages."""

    def listed(match: re.Match[str]) -> str:
        found = sorted((pages / match[1]).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
        rows = [f"{{ {json.dumps(title_of(page))} = {json.dumps(match[1] + page.name)} }}" for page in found]
        return f"[{', '.join(rows)}]"

    return FOLDER_IN_NAV.sub(listed, CONFIGURATION.read_text())


def write(folder: Path) -> None:
    """Write the folder: `pages`, and the configuration beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    Site(pages).write()
    for name in ASSETS:
        source = REPOSITORY / SITE / name
        goal = pages / "assets" / name
        shutil.copytree(source, goal) if source.is_dir() else shutil.copyfile(source, goal)
    (folder / CONFIGURATION.name).write_text(configuration(pages))
