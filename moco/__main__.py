"""python -m moco table | export: everything that reads runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from moco import results
from moco.config import UserError
from moco.runs import Run, all_runs, find


def selected(arguments: argparse.Namespace) -> list[Run]:
    """The runs named on the command line, or all."""
    if arguments.names:
        return [find(arguments.runs_dir, name) for name in arguments.names]
    runs = all_runs(arguments.runs_dir)
    if not runs:
        raise UserError(f"there are no runs in {arguments.runs_dir}: train one, or give --runs-dir")
    return runs


def table(arguments: argparse.Namespace) -> None:
    print(results.render(results.table(selected(arguments)), arguments.format))


def export(arguments: argparse.Namespace) -> None:
    from moco.export import export as write

    path, lines = write(find(arguments.runs_dir, arguments.name), arguments.to, arguments.out)
    print(f"{path} holds the backbone; it loads with\n\n{lines}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m moco", description="Read what runs left on disk.")
    commands = top.add_subparsers(required=True, metavar="command")
    one = commands.add_parser("table", help="the result table of all finished runs, or of those named")
    one.add_argument("names", nargs="*", help="ids, beginnings of ids, or folders")
    one.add_argument("--format", choices=results.FORMATS, default="markdown")
    one.set_defaults(call=table)
    one = commands.add_parser("export", help="a run's backbone for plain torchvision or timm")
    one.add_argument("name", help="id or folder")
    one.add_argument("--to", choices=("torchvision", "safetensors"), default="torchvision")
    one.add_argument("--out", type=Path, help="the file (default: named after the run, here)")
    one.set_defaults(call=export)
    for command in commands.choices.values():
        command.add_argument("--runs-dir", default="runs", help="where the runs' folders lie (default: runs)")
    return top


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        arguments.call(arguments)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # | head closed the pipe: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
