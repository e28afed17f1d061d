"""docs/arithmetic.md lists every sum, count and cast to integer in SQL and rules, with the reason why it fits."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "arithmetic.md"
SQL = sorted([*REPOSITORY.glob("*/*/queries.sql"), *REPOSITORY.glob("*/*/migrations/*.sql")])
PYTHON = sorted(
    [
        *(path for name in ("domain", "saga", "batch", "store") for path in REPOSITORY.glob(f"services/*/{name}.py")),
        *REPOSITORY.glob("services/order/audit/*.py"),
        *REPOSITORY.glob("deploy/consumer/*.py"),
    ]
)
Expressions = dict[str, set[str]]  # by place, which is `path:name`

# The start of a place: in queries.sql a query; in a migration a function, a table's column or another statement.
QUERY = re.compile(r"-- name: (\w+)")
FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION \w+\.(\w+)")
OTHER = re.compile(r"^(?:ALTER|CREATE|DELETE|DO|DROP|INSERT|SELECT|UPDATE|WITH)\b")
COLUMN = re.compile(r"^    ([a-z]\w*) ")
CALL = re.compile(r"\b(?:sum|count|avg|min|max|array_agg|string_agg|jsonb?_(?:object_)?agg|bool_(?:and|or)|div)(?=\()")
BINARY = re.compile(r"(?<=\S)\s+([-+*/%]|<<|>>)\s+(?=\S)")
NEGATED = re.compile(r"(?<![\w)'$>-])-(?=[a-z(])")
CAST = re.compile(r"(?<=\S)::(bigint|integer|int|smallint|int[248])\b(?!\[)")
NOT_COMPUTED = re.compile(r"SELECT|DISTINCT|RETURNING|\$\d+|")  # `SELECT *`; the driver checks what is passed
TIME = re.compile(r"interval|clock_timestamp|\bnow\b|_now\b|_at\b|extract|\bup_to\b|v_sweep|v_oldest")
AMOUNTS = re.compile(
    r"amount|balance|charged|price|discount|stock|units|quantity|put_in|held\b|worth|wanted|sums\b|total"
)
# For these aggregates, docs/arithmetic.md gives the reason once.
ADDING = re.compile(r"sum|avg|div|jsonb?_object_agg")


def nested(text: str) -> str:
    """Return the text with `(…)` in place of the content of parentheses."""
    while (shorter := re.sub(r"\([^()]*\)", "⟨⟩", text)) != text:
        text = shorter
    return " ".join(text.replace("⟨⟩", "(…)").replace("((…))", "(…)").split())


def closing(text: str, at: int) -> int:
    """Return where the parenthesis that opens at `at` closes."""
    depth = 0
    for place in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise AssertionError(text[at:])


def after(text: str, at: int) -> str:
    """Return the operand that begins at `at`."""
    match = re.compile(r"-?[\w.$':]*").match(text, at)
    assert match is not None
    if text[match.end() : match.end() + 1] != "(":
        return match[0]
    end = closing(text, match.end())
    return f"{match[0]}({nested(text[match.end() + 1 : end])})"


def before(text: str, at: int) -> str:
    """Return the operand that ends before `at`."""
    begin, inside = at, ""
    if text[at - 1] == ")":
        mirrored = text[:at][::-1].translate(str.maketrans("()", ")("))
        begin = at - 1 - closing(mirrored, 0)
        inside = f"({nested(text[begin + 1 : at - 1])})"
    match = re.search(r"[\w.$':]*$", text[:begin])
    assert match is not None
    return match[0] + inside


def in_sql(path: Path) -> Expressions:
    """Return the aggregates, arithmetic and casts of a file by query, function or column."""
    texts: dict[str, str] = defaultdict(str)
    name, in_table = "statement", False
    for line in path.read_text().splitlines():
        if path.name == "queries.sql":
            begun = QUERY.search(line)
        elif begun := FUNCTION.search(line):
            in_table = False
        elif OTHER.search(line):
            name, in_table = "statement", line.startswith("CREATE TABLE")
        elif in_table:
            begun = COLUMN.match(line)
        name = begun[1] if begun else name
        texts[name] += re.sub(r"--.*", "", line) + "\n"
    return {f"{relative(path)}:{name}": found for name, text in texts.items() if (found := set(expressions(text)))}


def expressions(text: str) -> Iterator[str]:
    """Yield the computations of a text of SQL, except those of timestamps and durations."""
    text = re.sub(r"'(?:[^']|'')*'", "''", text)
    for match in CALL.finditer(text):
        if ADDING.match(match[0]):
            yield after(text, match.start())
    for match in BINARY.finditer(text):
        left, right = before(text, match.start()), after(text, match.end())
        if not NOT_COMPUTED.fullmatch(left) and not TIME.search(left + right):
            yield f"{left} {match[1]} {right}"
    for match in NEGATED.finditer(text):
        yield "-" + after(text, match.end())
    for match in CAST.finditer(text):
        if not NOT_COMPUTED.fullmatch(operand := before(text, match.start())):
            yield f"{operand}::{match[1]}"


def in_python(path: Path) -> Expressions:
    """Return a file's computations with amounts, units and counts, by function."""
    found: Expressions = defaultdict(set)

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            if _computes(child) and AMOUNTS.search(text := ast.unparse(child)):
                found[f"{relative(path)}:{name}"].add(text)
            else:
                visit(child, getattr(child, "name", name) if isinstance(child, _SCOPES) else name)

    visit(ast.parse(path.read_text()), "module")
    return found


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OPERATIONS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.Pow, ast.LShift)


def _computes(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return isinstance(node.op, _OPERATIONS)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("sum", "abs")


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def documented() -> dict[str, tuple[set[str], list[str]]]:
    """Return the rows of the document's first two tables: by place its expressions, and the tests named with them."""
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        if re.match(r"\| `[\w./]+:\w+`", line):
            place, computed, _, *rest = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows[place.strip("`")] = (set(re.findall(r"`([^`]+)`", computed)), re.findall(r"`([^`]+)`", " ".join(rest)))
    return rows


@pytest.fixture(scope="module")
def code() -> Expressions:
    """Return the computations of the code."""
    found: Expressions = {}
    for path in SQL:
        found |= in_sql(path)
    for path in PYTHON:
        found |= in_python(path)
    return found


def test_all_arithmetic_is_in_the_document_and_nothing_else(code: Expressions) -> None:
    assert {place: expressions for place, (expressions, _) in documented().items()} == code


def test_arithmetic_on_money_and_units_names_a_test_at_the_bounds() -> None:
    for place, (computed, tests) in documented().items():
        if any(AMOUNTS.search(expression) for expression in computed):
            assert tests, place
        for test in tests:
            path, _, name = test.partition(":")
            assert f"def {name}(" in (REPOSITORY / path).read_text(), test


def test_every_other_aggregate_is_explained() -> None:
    used = {name for path in SQL for name in CALL.findall(re.sub(r"--.*", "", path.read_text()))}
    explained = re.findall(r"`(\w+)`", DOCUMENT.read_text().partition("## Aggregates")[2])
    assert {name for name in used if not ADDING.match(name)} <= set(explained)


@pytest.mark.parametrize(
    ("sql", "computed"),
    [
        ("SELECT coalesce(sum(amount), 0)::bigint FROM t", {"sum(amount)", "coalesce(sum(…), 0)::bigint"}),
        ("SELECT * FROM t WHERE a.x <> b.y\n    + coalesce(c, 0)", {"b.y + coalesce(c, 0)"}),
        ("SELECT -amount, (price * quantity)::int", {"-amount", "price * quantity", "(price * quantity)::int"}),
        ("UPDATE t SET a = now() + interval '1 day' WHERE b = $1::bigint AND c -> 'd' = 'x + y'", set()),
    ],
)
def test_arithmetic_in_sql_is_found(sql: str, computed: set[str]) -> None:
    assert set(expressions(sql)) == computed
