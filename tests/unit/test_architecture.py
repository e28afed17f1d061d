"""Rules of the architecture that neither the type checker nor the import linter can check."""

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SERVICES = sorted(path.parent for path in REPOSITORY.glob("services/*/__init__.py"))
PURE = sorted(
    path for pattern in ("domain.py", "domain/*.py", "saga.py") for path in REPOSITORY.glob(f"services/*/{pattern}")
)
SHARED = sorted(
    path for path in REPOSITORY.glob("shared/**/*.py") if not path.is_relative_to(REPOSITORY / "shared" / "contracts")
)
ACTING_OR_VARYING = {
    *("asyncio", "http", "io", "os", "pathlib", "queue", "random", "secrets", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib"),
}
DESIGN = REPOSITORY / "docs" / "architecture.md"
CONCEPTS = ("order", "product", "coupon", "balance")
TOP_LEVEL = {
    *("services", "shared", "deploy", "tests", "docs", ".ci", "Makefile", "pyproject.toml", ".dockerignore"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", ".gitignore"),
}
TEST_NAME_CHARACTERS = 80  # a longer name is cut in pytest's report, and is usually two promises


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def module_file(name: str) -> Path | None:
    """Return the file of one of our modules; None for others."""
    path = REPOSITORY.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imports(path: Path) -> Iterator[str]:
    """Return the full name of every module that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            assert node.module is not None
            full = [f"{node.module}.{name.name}" for name in node.names]
            yield from [name for name in full if module_file(name)] or [node.module]


def reached(path: Path) -> set[str]:
    """Return the external modules that a file imports, directly or through our modules."""
    outside: set[str] = set()
    files, seen = [path], {path}
    while files:
        for name in imports(files.pop()):
            file = module_file(name)
            if file is None:
                outside.add(name)
            elif file not in seen:
                seen.add(file)
                files.append(file)
    return outside


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_rules_need_the_standard_library_only_and_of_it_nothing_that_acts_or_varies(path: Path) -> None:
    packages = {name.split(".")[0] for name in reached(path)}
    assert packages <= sys.stdlib_module_names
    assert not packages & ACTING_OR_VARYING


@pytest.mark.parametrize("path", SHARED, ids=relative)
def test_shared_code_names_no_service_s_concept(path: Path) -> None:
    with path.open("rb") as file:
        names = {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    words = {name: name.lower().replace("_", " ").split() for name in names}
    found = {name for name, parts in words.items() for word in parts if word.removesuffix("s") in CONCEPTS}
    assert not found


def test_kafka_s_clients_are_taken_from_where_none_of_them_has_a_topic_created() -> None:
    files = [path for folder in ("services", "shared", "deploy") for path in REPOSITORY.glob(f"{folder}/**/*.py")]
    taking = {
        relative(path) for path in files if re.search(r"AIOKafka(Producer|Consumer|AdminClient)", path.read_text())
    }
    # The reference consumer subscribes by a pattern, for which no broker creates a topic. For the end of a topic it
    # asks only once the list of all topics has it.
    assert taking == {"shared/kafka.py", "deploy/consumer/reader.py", "deploy/consumer/watermarks.py"}


@pytest.mark.parametrize("service", SERVICES, ids=relative)
def test_a_service_can_be_installed_and_built_alone(service: Path) -> None:
    assert {path.name for path in service.iterdir()} >= {
        "__main__.py",
        "CHANGELOG.md",
        "Dockerfile",
        "README.md",
        "migrations",
        "queries.sql",
        "requirements.in",
        "requirements.lock",
        "settings.py",
    }


def test_the_dockerfiles_differ_in_name_and_port_only() -> None:
    kinds = set()
    for folder in SERVICES:
        _, text = (folder / "Dockerfile").read_text().split("\n", 1)  # the first line names the image in words
        port = re.search(r"^EXPOSE (\d+) (\d+)$", text, re.M)
        assert port is not None
        image = "order-platform"  # whose name holds a service's
        text = (
            text.replace(image, "image")
            .replace(port[1], "PORT")
            .replace(port[2], "INTERNAL")
            .replace(folder.name.upper(), "NAME")
        )
        kinds.add(text.replace(folder.name, "name").replace(folder.parent.name, "parent"))
    assert len(kinds) == 1


def test_the_picture_of_imports_has_the_layers_that_the_import_linter_checks() -> None:
    picture = re.search(
        r"^## Which module may import which\n.*?^```mermaid\n(.*?)^```", DESIGN.read_text(), re.M | re.S
    )
    assert picture is not None
    drawn = {
        folder: re.findall(r"\w\[\"(.+?)\"\]", modules)
        for folders, modules in re.findall(r"subgraph \w+\[\"(.+?)\"\]\n(.*?)\n    end", picture[1], re.S)
        for folder in folders.split(", ")
    }
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    checked = {
        container.replace(".", "/"): contract["layers"]
        for contract in contracts
        if contract.get("exhaustive")
        for container in contract["containers"]
    }
    assert drawn == checked


@pytest.mark.parametrize("service", SERVICES, ids=relative)
def test_sql_names_the_schema_of_its_own_service_only(service: Path) -> None:
    schemas = {"order": "orders", "product": "products", "coupon": "coupons", "balance": "balances"}
    # The relay publishes the order service's outbox, and may use nothing else of that service.
    allowed = {service.name} | ({"order"} if service.name == "relay" else set())
    foreign = [f" {schema}." for name, schema in schemas.items() if name not in allowed]
    for path in [*service.glob("*.sql"), *service.glob("migrations/*.sql")]:
        assert not [schema for schema in foreign if schema in path.read_text()], path


AIOHTTP_INTERNALS = "shared/http/aiohttp_internals.py"
AIOKAFKA_INTERNALS = "shared/kafka.py"


def test_private_parts_of_libraries_are_touched_in_one_module_each() -> None:
    sources = [path for root in ("services", "shared", "deploy") for path in REPOSITORY.glob(f"{root}/**/*.py")]
    private = re.compile(r"from aiohttp\.web_protocol\b|from aiokafka\.(client|conn|producer)\b|noqa: SLF001")
    touching = {relative(path) for path in sources if private.search(path.read_text())}
    assert touching == {AIOHTTP_INTERNALS, AIOKAFKA_INTERNALS}


@pytest.mark.parametrize(("library", "module"), [("aiohttp", AIOHTTP_INTERNALS), ("aiokafka", AIOKAFKA_INTERNALS)])
def test_libraries_are_pinned_to_the_version_whose_private_parts_were_tested(library: str, module: str) -> None:
    tested = re.search(rf"\b{library} ([\d.]+\d)", (REPOSITORY / module).read_text())
    locks = [path.read_text() for path in REPOSITORY.glob("services/*/requirements.lock")]
    pinned = {version for lock in locks for version in re.findall(rf"^{library}==([\d.]+)", lock, re.M)}
    assert tested is not None
    assert pinned == {tested[1]}


def test_nothing_else_is_kept_at_the_top_level() -> None:
    kept = subprocess.run(["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=True).stdout
    assert {path.split("/")[0] for path in kept.splitlines()} == TOP_LEVEL


def test_test_names_have_at_most_80_characters() -> None:
    names = {
        node.name
        for path in REPOSITORY.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    assert names
    assert not sorted(name for name in names if len(name) > TEST_NAME_CHARACTERS)
