"""python -m moco status | logs | cancel | table | plot | report | sync | dashboard | export: all that reads runs."""

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from moco.analysis import table as tables
from moco.errors import UserError
from moco.io import write_atomic
from moco.runs.run import Run, find
from moco.runs.sweep import Sweep, select, sweep_names

NAMES = "sweeps, ids, beginnings of ids, or folders"


def selected(arguments: argparse.Namespace) -> list[Run]:
    """The runs and the runs of the sweeps named on the command line, or all."""
    return select(arguments.runs_dir, arguments.names)


def show_status(arguments: argparse.Namespace) -> None:
    from moco.analysis import status

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
    from moco.analysis import status

    known = sweep_names(arguments.runs_dir)
    launchers = [
        pid for name in arguments.names if name in known for pid in Sweep(arguments.runs_dir, name).launchers()
    ]
    print("\n".join(status.cancel(selected(arguments), launchers)) or "nothing is running or queued")


def table(arguments: argparse.Namespace) -> None:
    columns = [name.strip() for name in arguments.columns.split(",") if name.strip()]
    rows = tables.table(selected(arguments), arguments.where, arguments.sort, columns)
    if arguments.format == "parquet":
        if not arguments.out:
            raise UserError("parquet is no text: give a file with --out")
        written(arguments.out, lambda: tables.write_parquet(rows, arguments.out))
        return
    text = tables.render(rows, arguments.format)
    if arguments.into:
        written(arguments.into, lambda: tables.rewrite_block(arguments.into, text))
    elif arguments.out:
        written(arguments.out, lambda: write_atomic(arguments.out, text + "\n"))
    else:
        print(text)


def plot(arguments: argparse.Namespace) -> None:
    from moco.analysis import figure as plots

    written(arguments.out, lambda: plots.figure(selected(arguments), arguments.out))


def report(arguments: argparse.Namespace) -> None:
    from moco.analysis import report

    answer: list[str] = []
    written(arguments.out, lambda: answer.extend(report.write(arguments.runs_dir, arguments.names, arguments.out)))
    print("\n".join([*answer, f"{arguments.out} holds the table and the charts"]))


def sync(arguments: argparse.Namespace) -> None:
    from moco.analysis import sync as upload

    upload(selected(arguments))


def dashboard(arguments: argparse.Namespace) -> None:
    from moco.analysis import dashboard

    runs = Sweep(arguments.runs_dir, arguments.sweep).runs() if arguments.sweep else select(arguments.runs_dir)
    specified = dashboard.specification(runs, arguments.sweep)
    print(json.dumps(specified, indent=1) if arguments.dry_run else dashboard.publish(specified))


def written(path: Path, write: Callable[[], object]) -> None:
    """Calls `write`, which writes a file to `path`.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): give another file") from error


def export(arguments: argparse.Namespace) -> None:
    from moco import export as write

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
    one.add_argument("--where", default="", metavar="TEST", help="such as 'm>=1024 and optimizer.name=sgd'")
    one.add_argument(
        "--sort",
        default="",
        metavar="COLUMN",
        help="accuracies from the highest, others from the lowest; -COLUMN reverses",
    )
    one.add_argument("--columns", default="", metavar="A,B", help="these columns or settings alone, in this order")
    one.add_argument("--format", choices=tables.FORMATS, default="markdown", help="(default: markdown)")
    one.add_argument("--latex", dest="format", action="store_const", const="latex", help="short for --format latex")
    one.add_argument("--out", type=Path, metavar="FILE", help="write to this file")
    one.add_argument(
        "--into", type=Path, metavar="FILE", help="replace what stands between the marks in a Markdown file"
    )
    one.set_defaults(call=table)
    one = commands.add_parser(
        "plot", help="the figure for a paper, png, pdf or svg: learning curves, kNN against settings"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("-o", "--out", type=Path, default=Path("curves.png"), help="the file (default: curves.png)")
    one.set_defaults(call=plot)
    one = commands.add_parser(
        "report", help="one HTML file: the answer in words, sortable table, charts; opens offline"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the file (default: report.html)")
    one.set_defaults(call=report)
    one = commands.add_parser("sync", help="upload to W&B what runs have kept offline")
    one.add_argument("names", nargs="*", help=NAMES)
    one.set_defaults(call=sync)
    one = commands.add_parser("dashboard", help="save a W&B workspace: table, accuracy against settings, curves")
    one.add_argument("sweep", nargs="?", help="a sweep (default: all runs)")
    one.add_argument("--dry-run", action="store_true", help="print what it would show, as JSON")
    one.set_defaults(call=dashboard)
    one = commands.add_parser("export", help="a run's backbone for plain torchvision or timm")
    one.add_argument("name", help="id or folder")
    one.add_argument("--to", choices=("torchvision", "safetensors"), default="torchvision")
    one.add_argument("--out", type=Path, help="the file (default: named after the run, here)")
    one.set_defaults(call=export)
    for command in commands.choices.values():
        command.add_argument("--runs-dir", default="runs", help="where the runs' folders lie (default: runs)")
    return top


def main(words: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    if "--sort" in words[:-1]:  # argparse would take --sort -tau for two options
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    arguments = parser().parse_args(words)
    try:
        gc.set_threshold(100_000)  # thousands of runs are many small objects and no cycles
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
