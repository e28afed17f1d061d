"""The rules of the house that neither the type checker nor the import linter can read."""

import ast
import re
import sys
import tokenize
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
CONCEPTS = ("order", "product", "coupon", "balance")


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def module_file(name: str) -> Path | None:
    """The file of one of our own modules, None for everybody else's."""
    path = REPOSITORY.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def imports(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            assert node.module is not None
            full = [f"{node.module}.{name.name}" for name in node.names]
            yield from [name for name in full if module_file(name)] or [node.module]


def reached(path: Path) -> set[str]:
    """The modules outside this repository that a file needs, itself or through modules of ours."""
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
def test_what_is_shared_names_no_service_s_concept(path: Path) -> None:
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
    assert taking == {"shared/kafka.py"}


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
    for service in SERVICES:
        text = (service / "Dockerfile").read_text()
        port = re.search(r"^EXPOSE (\d+)$", text, re.M)
        assert port is not None
        image = "order-platform"  # whose name holds a service's
        text = text.replace(image, "image").replace(port[1], "PORT").replace(service.name.upper(), "NAME")
        kinds.add(text.replace(service.name, "name"))
    assert len(kinds) == 1


@pytest.mark.parametrize("service", SERVICES, ids=relative)
def test_sql_names_the_schema_of_its_own_service_only(service: Path) -> None:
    schemas = {"order": "orders", "product": "products", "coupon": "coupons", "balance": "balances"}
    # The relay exists to publish the order service's outbox, and may touch nothing else of it.
    allowed = {service.name} | ({"order"} if service.name == "relay" else set())
    foreign = [f" {schema}." for name, schema in schemas.items() if name not in allowed]
    for path in [*service.glob("*.sql"), *service.glob("migrations/*.sql")]:
        assert not [schema for schema in foreign if schema in path.read_text()], path


def test_one_module_of_the_relay_touches_aiokafka_s_private_parts() -> None:
    private = re.compile(r"\bimport aiokafka|from aiokafka\.(client|conn|producer)\b|noqa: SLF001")
    touching = {
        relative(path) for path in REPOSITORY.glob("services/relay/**/*.py") if private.search(path.read_text())
    }
    assert touching == {"services/relay/kafka/client.py"}


def test_aiokafka_is_pinned_to_the_version_whose_private_parts_were_tested() -> None:
    tested = re.search(r"\baiokafka ([\d.]+\d)", (REPOSITORY / "services/relay/kafka/client.py").read_text())
    pinned = re.search(r"^aiokafka==([\d.]+)", (REPOSITORY / "services/relay/requirements.lock").read_text(), re.M)
    assert tested is not None
    assert pinned is not None
    assert tested[1] == pinned[1]
