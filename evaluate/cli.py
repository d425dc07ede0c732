"""`probe`: what a network has learnt, and how good masks are, in scores and pictures."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import click
from tabulate import tabulate

from data.errors import ToldGroup, UserError
from data.options import Command, options
from evaluate import PROBES
from evaluate.options import NetworkOptions, ResultOptions
from evaluate.results import refuse_several, results_in, say

SHARED = ("Network", "Results")  # headings of shared options, at the end of `--help`


class Probes(ToldGroup):
    """The registry's probes; a module is imported when its probe is named."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The probes' names."""
        return list(PROBES)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the probes by their line in the registry."""
        with formatter.section("Probes"):
            formatter.write_dl([(name, probe.help) for name, probe in PROBES.items()])

    def get_command(self, context: click.Context, name: str) -> click.Command:
        """The probe as a command; its module stays without torch."""
        if name not in PROBES:
            raise UserError(f"there is no probe '{name}'; probes are {', '.join(PROBES)}.")
        module = importlib.import_module(PROBES[name].module)

        @click.command(name, cls=Command, help=inspect.getdoc(module.Options))
        @options(module.Options)
        def command(settings: Any) -> None:
            run_probe(name, module, settings)

        command.params.sort(key=_position)
        return command


def _position(parameter: click.Parameter) -> int:
    """Sorts a probe's own options before those that probes share."""
    heading = getattr(parameter, "heading", None)
    return SHARED.index(heading) if heading in SHARED else -1


@click.group(cls=Probes, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Judge masks and pretrained networks: scores on the terminal, JSON and pictures in files."""
    sys.stdout.reconfigure(errors="backslashreplace")  # keys may hold what a terminal cannot show


def run_probe(name: str, module: ModuleType, settings: Any) -> None:
    """Run a probe, write its report into the folder --out, and print it."""
    if not getattr(module, "SHARES_WORK", False):
        refuse_several(name)
    if not isinstance(settings, ResultOptions):
        module.run(settings)
        return
    own = getattr(module, "MAY_HOLD", ())
    with _precision(settings), results_in(settings.out, name, settings.overwrite, own) as results:
        report = module.run(settings, results)
        if report is None:  # the first process has it
            return
        text = results.publish(report)
    for note in report.notes:
        say(note)
    if settings.as_json:
        click.echo(text)
    else:
        click.echo(tabulate(report.table, headers="keys", disable_numparse=True))
        for sentence in report.sentences:
            click.echo(sentence)
    say(
        f"Open {results.folder / 'index.html'}"
        if report.gallery
        else f"Written to {results.folder}"
    )


def _precision(settings: Any) -> contextlib.AbstractContextManager:
    """Full float32 for a probe with a network."""
    if not isinstance(settings, NetworkOptions):
        return contextlib.nullcontext()
    from data.device import without_tf32  # needs torch

    return without_tf32()
