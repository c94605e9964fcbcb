"""A command that refuses empty values: an unset shell variable must not turn into a path, a default or a choice."""

from __future__ import annotations

import click

HELP = ("-h", "--help")


class Command(click.Command):
    """A command none of whose options and arguments takes an empty text, or another option's name, as its value.

    It has -h by itself: click keeps the help option of the first context that a command is seen in, and one without
    a parent knows no settings of the group.
    """

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Return the names that no other option has."""
        taken = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        return [name for name in HELP if name not in taken]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after a check of the values as they were typed: the type of a path makes "." of an empty text."""
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        params = self.get_params(ctx)
        options = {name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")}
        for param in params:
            value = typed.get(param.name or "")
            for text in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(text, str):
                    _refuse(param, text, options, ctx)
        return super().parse_args(ctx, args)


def _refuse(param: click.Parameter, value: str, options: set[str], ctx: click.Context) -> None:
    """Raise a usage error where a value is none."""
    name = "/".join(param.opts) if isinstance(param, click.Option) else (param.name or "").upper()
    if not value:
        raise click.UsageError(f"{name} is empty: give it a value (is a shell variable unset?)", ctx)
    if value in options:
        raise click.UsageError(
            f"{name} has no value: {value} follows (is a shell variable unset?); a file of that name is ./{value}", ctx
        )
