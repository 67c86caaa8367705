"""python -m moco status | logs | cancel | table | plot | export: everything that reads runs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from moco import results
from moco.config import UserError
from moco.runs import Run, all_runs, find
from moco.sweeps import Sweep, sweep_names

NAMES = "sweeps, ids, beginnings of ids, or folders"


def selected(arguments: argparse.Namespace) -> list[Run]:
    """The runs and the runs of the sweeps named on the command line, or all."""
    known = sweep_names(arguments.runs_dir) if arguments.names else []
    chosen: dict[Path, Run] = {}
    for name in arguments.names:
        named = Sweep(arguments.runs_dir, name).runs() if name in known else [find(arguments.runs_dir, name)]
        chosen |= {run.folder: run for run in named}
    runs = list(chosen.values()) if arguments.names else all_runs(arguments.runs_dir)
    if not runs:
        raise UserError(f"there are no runs in {arguments.runs_dir}: train one, or give --runs-dir")
    return runs


def show_status(arguments: argparse.Namespace) -> None:
    from moco import status

    if arguments.watch:
        status.watch(lambda: status.rows(selected(arguments)), arguments.seconds)
    else:
        print(status.text(status.rows(selected(arguments)), sys.stdout.isatty()))


def logs(arguments: argparse.Namespace) -> None:
    run = find(arguments.runs_dir, arguments.name)
    lines = run.log_tail(arguments.lines)
    if not lines:
        raise UserError(f"{run.folder} has no log: it was not started by a launcher, or has not begun")
    print("\n".join(lines))


def cancel(arguments: argparse.Namespace) -> None:
    from moco import status

    known = sweep_names(arguments.runs_dir)
    launchers = [
        pid for name in arguments.names if name in known for pid in Sweep(arguments.runs_dir, name).launchers()
    ]
    print("\n".join(status.cancel(selected(arguments), launchers)) or "nothing is running or queued")


def table(arguments: argparse.Namespace) -> None:
    text = results.render(results.table(selected(arguments)), arguments.format)
    if arguments.into:
        results.rewrite_block(arguments.into, text)
    else:
        print(text)


def plot(arguments: argparse.Namespace) -> None:
    from moco import plots

    plots.curves(selected(arguments), arguments.out)


def export(arguments: argparse.Namespace) -> None:
    from moco.export import export as write

    path, lines = write(find(arguments.runs_dir, arguments.name), arguments.to, arguments.out)
    print(f"{path} holds the backbone; it loads with\n\n{lines}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m moco", description="Read what runs left on disk.")
    commands = top.add_subparsers(required=True, metavar="command")
    one = commands.add_parser("status", help="where each run stands")
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("--watch", action="store_true", help="redraw until all have ended")
    one.add_argument("--seconds", type=float, default=5, help="between redraws (default: 5)")
    one.set_defaults(call=show_status)
    one = commands.add_parser("logs", help="the end of a run's log")
    one.add_argument("name", help="id or folder")
    one.add_argument("--lines", type=int, default=40, help="how many (default: 40)")
    one.set_defaults(call=logs)
    one = commands.add_parser("cancel", help="stop what runs, checkpoints saved, and take queued jobs out")
    one.add_argument("names", nargs="+", help=NAMES)
    one.set_defaults(call=cancel)
    one = commands.add_parser("table", help="the result table of all finished runs, or of those named")
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("--format", choices=results.FORMATS, default="markdown")
    one.add_argument(
        "--into", type=Path, metavar="FILE", help="replace what stands between the marks in a Markdown file"
    )
    one.set_defaults(call=table)
    one = commands.add_parser("plot", help="learning curves as png, pdf or svg")
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("-o", "--out", type=Path, default=Path("curves.png"), help="the file (default: curves.png)")
    one.set_defaults(call=plot)
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
