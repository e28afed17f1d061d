"""The acts that sagas and parked events have alike: retry one or all, and those that a person is asked to confirm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from deploy.client.transport import Call
from deploy.orderctl import calls
from deploy.orderctl.options import act, actor, as_json, dry_run, yes
from deploy.orderctl.output import confirm, show_rows
from deploy.orderctl.platform import ask


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of a group of commands.

    `on_one`: the call of each act, by its name. `on_all`: the call that retries all. `rows`: what an answer concerns,
    shown in `columns`.
    """

    group: click.Group
    on_one: Mapping[str, Call]
    on_all: Call
    columns: Sequence[str]
    rows: Callable[[calls.Raw], Iterable[Mapping[str, Any]]]

    def add_retry(self, about: str, about_all: str) -> None:
        """Add `retry`. `about`: the help of the command, `about_all`: of --all."""

        @self.group.command(help=about)
        @click.argument("id_", metavar="ID", required=False)
        @click.option("--all", "every", is_flag=True, help=about_all)
        @act
        @dry_run
        @as_json
        def retry(id_: str | None, every: bool, reason: str, by: str | None, dry_run: bool, as_json: bool) -> None:
            if every == (id_ is not None):
                raise click.UsageError("Give an ID, or --all.")
            body = calls.Act(actor=actor(by), reason=reason, dry_run=dry_run)
            self._act("retry", id_, body, as_json=as_json)

    def add_confirmed(self, name: str, about: str, question: str) -> None:
        """Add an act that can't be taken back. `question`: what a person is asked before, with `{id}`."""

        @self.group.command(name, help=about)
        @click.argument("id_", metavar="ID")
        @act
        @dry_run
        @yes
        @as_json
        def command(id_: str, reason: str, by: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
            body = calls.Act(actor=actor(by), reason=reason, dry_run=dry_run)
            confirm(question.format(id=id_), yes=yes or dry_run)
            self._act(name, id_, body, as_json=as_json)

    def _act(self, name: str, id_: str | None, body: calls.Act, *, as_json: bool) -> None:
        call = self.on_all if id_ is None else self.on_one[name]
        done = ask(lambda platform: platform.admin(call, body=body, id_=id_))
        did = "would" if done["dry_run"] else "did"
        show_rows([{did: name, **row} for row in self.rows(done)], (did, *self.columns), as_json=as_json)
