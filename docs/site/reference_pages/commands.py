"""The page of all commands of orderctl, from their definitions."""

from collections.abc import Iterator

import click

from deploy.orderctl.__main__ import NAME, orderctl
from docs.site.reference_pages.markdown import NOTE, code, table, wrapped


def commands() -> Iterator[str]:
    """Yield the lines of the page of orderctl."""
    yield from (
        f"# Every command of {NAME}",
        NOTE,
        "",
        f"[{NAME}](../../deploy/orderctl/README.md) is the command line for operators. Its README has the settings and",
        "the exit statuses.",
    )
    yield from group((NAME,), orderctl)


def group(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    """Yield the lines of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        if len(path) == 2:
            yield from ("", f"## {path[-1]}", *text_of(command))
        for name, one in sorted(command.commands.items()):
            yield from group((*path, name), one)
        return
    context = click.Context(command, info_name=" ".join(path))
    yield from ("", f"{'#' * max(len(path), 2)} {' '.join(path)}", *text_of(command))
    yield from ("", f"    {' '.join([*path, *command.collect_usage_pieces(context)])}")
    records = [record for one in command.params if (record := one.get_help_record(context)) is not None]
    rows = [[code(option), meaning] for option, meaning in records if meaning]
    if rows:
        yield from ("", *table(("option", "meaning"), rows))


def text_of(command: click.Command) -> Iterator[str]:
    """Yield the lines of a command's help."""
    yield from wrapped(" ".join((command.help or "").split()))
