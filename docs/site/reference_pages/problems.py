"""The page of all problem types, from their catalogue."""

from collections.abc import Iterator

from docs.site.reference_pages.markdown import NOTE, code, item, sentence, wrapped
from shared.contracts.problem_types import FOR_CLIENTS
from shared.contracts.problem_types.of_operators import OF_OPERATORS
from shared.contracts.problem_types.problem_type import ProblemType


def problems() -> Iterator[str]:
    """Yield the lines of the page of all problem types."""
    yield from (
        "# Problem types, with what to do",
        NOTE,
        "",
        "Each refusal is a problem (RFC 9457), and its `type` is `/problems/` and a name of this page.",
        "[The table](../api.md#problem-types) has all types for clients on one screen.",
    )
    for title, types in (("For clients", FOR_CLIENTS), ("For operators", OF_OPERATORS)):
        yield from ("", f"## {title}")
        for one in types:
            yield from ("", f"### {code(one.slug)}", *problem(one))


def problem(one: ProblemType) -> Iterator[str]:
    """Yield the lines of a problem type."""
    yield from wrapped(f"Status {one.status}. {sentence(one.meaning)}")
    yield ""
    yield from item(f"What to do: {one.remedy}")
    yield from item(f"Does a retry help? {one.retry.advice}")
    if one.members:
        yield from item(f"Members: {sentence(one.members)}")
