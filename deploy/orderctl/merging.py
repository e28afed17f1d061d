"""Asks all cells at once: merges their lists, and finds the cell that has one order, saga, event or replay."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, Generic, TypeVar

import aiohttp

from deploy.client import ClientError, NoFinalAnswer, OutcomeUnknown, Policy, Problem
from deploy.client.transport import Call
from deploy.orderctl.output import show_rows
from deploy.orderctl.places import Cells
from deploy.orderctl.platform import Platform, ask
from shared.process.exits import Exit, end

Result = TypeVar("Result")
Row = Mapping[str, Any]
Question = Callable[[Platform], Awaitable[Result]]
Key = Callable[[Row], Any]

LIST_MAX = 1000  # as many as one cell lists
ACTS_MAX = 200  # and of acts
MISSING, MISDIRECTED = 404, 421
ELSEWHERE = (MISSING, MISDIRECTED)  # a cell's answers about what another cell has


@dataclass(frozen=True, slots=True)
class Answers(Generic[Result]):
    """What the cells answered, by their addresses, and why the others did not."""

    found: Mapping[str, Result]
    failed: Mapping[str, Exception]

    @property
    def complaints(self) -> list[str]:
        """Return a line for each cell without an answer."""
        return [f"{url}: {complaint(error)}" for url, error in self.failed.items()]

    def require_all(self) -> None:
        """Exit unless every cell has answered: what was printed is not everything."""
        if self.failed:
            end(Exit.FAILED, *self.complaints)


async def gathered(platform: Platform, cells: Cells, question: Question[Result]) -> Answers[Result]:
    """Ask all cells the same at once. One that does not answer does not keep the others from answering."""
    asked = [question(platform.at(cells.listener, url)) for url in cells.urls]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found: dict[str, Result] = {}
    failed: dict[str, Exception] = {}
    for url, answer in zip(cells.urls, answers, strict=True):
        if isinstance(answer, ClientError | aiohttp.ClientError):
            failed[url] = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[url] = answer
    return Answers(found, failed)


def ask_all(cells: Cells, question: Question[Result], policy: Policy | None = None) -> Answers[Result]:
    """Ask all cells the same, and return what each of them answered."""
    return ask(lambda platform: gathered(platform, cells, question), policy, beside=False)


def ask_owner(
    cells: Cells,
    probe: Question[Result],
    question: Question[Result] | None = None,
    policy: Policy | None = None,
) -> tuple[Result, dict[str, str]]:
    """Ask the cell that has something, and return its answer and, where there are several, which cell it is.

    `probe`: changes nothing, and is answered with 404 or 421 by a cell that does not have it. So nobody needs to know
    which cell owns which slot. `question`: what to ask instead, if not the probe. Raises ClientError.
    """

    async def answered(platform: Platform) -> tuple[Result, dict[str, str]]:
        if not cells.urls:
            return await (question or probe)(platform), {}
        if len(cells.urls) == 1:
            (url,) = cells.urls
            return await (question or probe)(platform.at(cells.listener, url)), {cells.word: url}
        answers = await gathered(platform, cells, probe)
        if len(answers.found) != 1:
            _end_without_owner(answers)
        ((url, answer),) = answers.found.items()
        if question is not None:
            answer = await question(platform.at(cells.listener, url))
        return answer, {cells.word: url}

    return ask(answered, policy, beside=not cells.urls)


def _end_without_owner(answers: Answers[Any]) -> None:
    """Exit, because no cell has it, or more than one has, or a cell did not say whether it has."""
    if answers.found:
        end(Exit.FAILED, f"{' and '.join(answers.found)} have it: choose one with --cell")
    silent = {url: error for url, error in answers.failed.items() if not is_elsewhere(error)}
    if silent:
        end(Exit.FAILED, "no other cell has it, and not every cell has answered:", *Answers({}, silent).complaints)
    # A cell that owns its slot and does not have it says best what is missing.
    raise min(answers.failed.values(), key=lambda error: getattr(error, "status", MISDIRECTED))


def is_elsewhere(error: Exception) -> bool:
    """Return whether a cell has said that it does not have what was asked for."""
    return isinstance(error, Problem) and error.status in ELSEWHERE


def show_merged(
    cells: Cells,
    question: Question[Iterable[Row]],
    columns: Sequence[str],
    *,
    key: Key,
    newest_first: bool = False,
    limit: int = LIST_MAX,
    as_json: bool,
) -> list[Row]:
    """Print a list of all cells in the order of `key`, each row with its cell; return it.

    Exit with 1 after it if a cell did not answer. Without cells, it is the list of the only one.
    """
    if not cells.urls:
        rows = list(ask(question))
        show_rows(rows, columns, as_json=as_json)
        return rows
    answers = ask_all(cells, question)
    rows = merged(cells.word, answers.found, key=key, newest_first=newest_first, limit=limit)
    show_rows(rows, (cells.word, *columns), as_json=as_json)
    answers.require_all()
    return rows


def merged(word: str, lists: Mapping[str, Iterable[Row]], *, key: Key, newest_first: bool, limit: int) -> list[Row]:
    """Return the first rows of several lists, each of which has this order. `word`: the member with a row's cell.

    It ends after as many as one cell lists: a cell that has more has left rows out, and would have a gap later on. By
    the merge, what is returned of a cell is the beginning of its list, also if its database sorts in another way.
    """
    rows = [[{word: url, **row} for row in found] for url, found in lists.items()]
    return list(islice(merge(*rows, key=key, reverse=newest_first), limit))


def items(call: Call, **query: str | float | None) -> Question[list[Row]]:
    """Return the question for the items of a list."""

    async def found(platform: Platform) -> list[Row]:
        rows: list[Row] = (await platform.admin(call, body=None, id_=None, **query))["items"]
        return rows

    return found


def moment(text: str) -> datetime:
    """Return a time as the services write it. As a text it has no order: a fraction is not always there."""
    return datetime.fromisoformat(text)


def complaint(error: Exception) -> str:
    """Return one line about a call that failed."""
    if isinstance(error, OutcomeUnknown):
        return f"{error}. Look whether it has happened before you repeat it."
    if isinstance(error, Problem | NoFinalAnswer):
        return str(error)
    return f"{type(error).__name__}: {error}"
