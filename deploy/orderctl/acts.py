"""The acts that sagas and parked events have alike: retry one or all, and those that a person is asked to confirm."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from deploy.client.transport import Call
from deploy.orderctl import calls
from deploy.orderctl.merging import ACTS_MAX, ask_owner, items, moment, show_merged
from deploy.orderctl.options import act, actor, as_json, cells, dry_run, yes
from deploy.orderctl.output import confirm, show_rows
from deploy.orderctl.places import Cells
from deploy.orderctl.platform import Platform


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of a group of commands.

    `on_one`: the call of each act, by its name. `on_all`: the call that retries all. `rows`: what an answer concerns,
    shown in `columns`. `probe`: a call that changes nothing, and finds the cell that has an id. If it is an act, its
    dry run does.
    """

    group: click.Group
    on_one: Mapping[str, Call]
    on_all: Call
    probe: Call
    columns: Sequence[str]
    rows: Callable[[calls.Raw], Iterable[Mapping[str, Any]]]

    def add_retry(self, about: str, about_all: str) -> None:
        """Add `retry`. `about`: the help of the command, `about_all`: of --all."""

        @self.group.command(help=about)
        @click.argument("id_", metavar="ID", required=False)
        @click.option("--all", "every", is_flag=True, help=about_all)
        @act
        @dry_run
        @cells(self.on_all.service)
        @as_json
        def retry(id_: str | None, every: bool, reason: str, by: str | None, **options: Any) -> None:
            if every == (id_ is not None):
                raise click.UsageError("Give an ID, or --all.")
            body = calls.Act(actor=actor(by), reason=reason, dry_run=options["dry_run"])
            if id_ is None:
                self._on_all(body, options["cells"], as_json=options["as_json"])
            else:
                self._on_one("retry", id_, body, options["cells"], as_json=options["as_json"])

    def add_confirmed(self, name: str, about: str, question: str) -> None:
        """Add an act that can't be taken back. `question`: what a person is asked before, with `{id}`."""

        @self.group.command(name, help=about)
        @click.argument("id_", metavar="ID")
        @act
        @dry_run
        @yes
        @cells(self.on_all.service)
        @as_json
        def command(id_: str, reason: str, by: str | None, **options: Any) -> None:
            body = calls.Act(actor=actor(by), reason=reason, dry_run=options["dry_run"])
            confirm(question.format(id=id_), yes=options["yes"] or options["dry_run"])
            self._on_one(name, id_, body, options["cells"], as_json=options["as_json"])

    def add_list(self, call: Call, about: str, columns: Sequence[str]) -> None:
        """Add `acts`, the list of what operators did. `about`: the help of the command."""

        @self.group.command(help=about)
        @cells(call.service)
        @as_json
        def acts(cells: Cells, as_json: bool) -> None:
            show_merged(
                *(cells, items(call), columns),
                key=lambda act: moment(act["at"]),
                newest_first=True,
                limit=ACTS_MAX,
                as_json=as_json,
            )

    def _on_one(self, name: str, id_: str, body: calls.Act, cells: Cells, *, as_json: bool) -> None:
        asked = None if self.probe.body is None else body.model_copy(update={"dry_run": True})

        async def probe(platform: Platform) -> calls.Raw:
            return await platform.admin(self.probe, body=asked, id_=id_)

        async def act(platform: Platform) -> calls.Raw:
            return await platform.admin(self.on_one[name], body=body, id_=id_)

        done, cell = ask_owner(cells, probe, act)
        show_rows([cell | row for row in self._done(name, done)], (*cell, *self._shown(body)), as_json=as_json)

    def _on_all(self, body: calls.Act, cells: Cells, *, as_json: bool) -> None:
        async def act(platform: Platform) -> list[dict[str, Any]]:
            return self._done("retry", await platform.admin(self.on_all, body=body))

        # Cell after cell, and everything: it has been done.
        show_merged(cells, act, self._shown(body), key=lambda _row: 0, limit=sys.maxsize, as_json=as_json)

    def _done(self, name: str, done: calls.Raw) -> list[dict[str, Any]]:
        """Return what an act concerned, in rows."""
        return [{_did(dry_run=done["dry_run"]): name, **row} for row in self.rows(done)]

    def _shown(self, body: calls.Act) -> Sequence[str]:
        return (_did(dry_run=body.dry_run), *self.columns)


def _did(*, dry_run: bool) -> str:
    return "would" if dry_run else "did"
