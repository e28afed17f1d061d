"""Lists the mutants of Python files, a JSON object a line: `python generate.py FILE...`, in an environment that has
cosmic-ray. Each removes or weakens one condition or one handler of an exception."""

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

# Of the tool's operators those that concern conditions. It has all pairs of comparisons: of each one its bound is moved
# and its sense turned round.
OPERATORS = (
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceUnaryOperator_Delete_Not"),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in ("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt", "Eq_NotEq")
    ),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("NotEq_Eq", "Is_IsNot", "IsNot_Is")),
)


class _Always(Operator):  # type: ignore[misc] # publishes no types
    """A condition that is not asked. The tool itself only negates those of statements, which nearly every test notices.

    Conditions stand in statements, conditional expressions and comprehensions.
    """

    value: str
    keywords: tuple[str, ...] = ("if", "elif")

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for place in self._conditions(node):
            yield node.children[place].start_pos, node.children[place].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[self._conditions(node)[index]] = parso.parse(f" {self.value}")
        return node

    def _conditions(self, node: Any) -> list[int]:
        children = enumerate(getattr(node, "children", ()), 1)
        return [after for after, child in children if child.type == "keyword" and child.value in self.keywords]

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class AlwaysTrue(_Always):
    """Replace a condition by True."""

    value = "True"


class AlwaysFalse(_Always):
    """Replace a condition by False."""

    value = "False"
    # Not the opposite: all tests detect an endless loop, but slowly.
    keywords = ("if", "elif", "while")


class Unhandled(Operator):  # type: ignore[misc] # publishes no types
    """One exception that a handler does not handle. The tool's own operator knows only plain names."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for handled in self._handled(node):
            yield handled.start_pos, handled.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        handled = self._handled(node)[index]
        siblings = handled.parent.children
        siblings[siblings.index(handled)] = parso.parse(f"{handled.get_first_leaf().prefix}ZeroDivisionError")
        return node

    @staticmethod
    def _handled(node: Any) -> list[Any]:
        if node.type != "except_clause":
            return []
        kinds = node.children[1]
        if kinds.type == "atom" and kinds.children[1].type == "testlist_comp":
            return [kind for kind in kinds.children[1].children if kind.type != "operator"]
        return [kinds]

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def operators() -> Iterator[Operator]:
    """Yield all operators."""
    yield from (AlwaysTrue(), AlwaysFalse(), Unhandled())
    for name in OPERATORS:
        yield get_operator(f"core/{name}")()


def mutants(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each mutant: where it is, the lines that it changes, before and after, and its whole text."""
    source = path.read_text()
    for operator in operators():
        nodes = [node for node in ast_nodes(get_ast(source)) for _ in operator.mutation_positions(node)]
        for occurrence, node in enumerate(nodes):
            mutated = mutate_code(source, operator, occurrence)
            if mutated is None or mutated == source:
                continue
            before, after, line = _changed(source, mutated)
            where = {"path": str(path), "function": ASTQuery(node).get_definition_name(), "line": line}
            yield {**where, "operator": type(operator).__name__, "before": before, "after": after, "text": mutated}


def _changed(source: str, mutated: str) -> tuple[str, str, int]:
    """Return the lines that differ, before and after, without indentation, and the number of the first."""
    lines, others = source.splitlines(), mutated.splitlines()
    changes = [
        code
        for code in difflib.SequenceMatcher(None, lines, others, autojunk=False).get_opcodes()
        if code[0] != "equal"
    ]
    (_, first, last, begin, end) = changes[0]
    return _one_line(lines[first:last]), _one_line(others[begin:end]), first + 1


def _one_line(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for mutant in mutants(Path(name)):
            print(json.dumps(mutant))
