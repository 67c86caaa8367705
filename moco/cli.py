"""python -m moco, moco: the commands that COMMANDS lists."""

import argparse
import dataclasses
import gc
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from moco.analysis import formats
from moco.errors import UserError, say
from moco.io import Unwritable, write_atomic
from moco.runs.listing import find, unreadable
from moco.runs.run import Run
from moco.runs.sweep import Sweep, damaged, select, sweep_names

NAMES = "sweeps, ids, beginnings of ids, or folders"

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Given: TypeAlias = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")


def positive(text: str) -> float:
    """A number above 0."""
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} should be a number above 0")
    return number


def count(text: str) -> int:
    """A whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} should be a whole number above 0")
    return number


def counts(text: str) -> list[int]:
    """Whole numbers above 0 that are separated by commas, each once."""
    try:
        return list(dict.fromkeys(map(count, text.split(","))))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text} should be whole numbers above 0, such as 2,3") from error


def port(text: str) -> int:
    """The number of a port."""
    if not 1 <= (number := int(text)) < 2**16:
        raise argparse.ArgumentTypeError(f"{text} should be a port, 1 to 65535")
    return number


def add_serve(one: argparse.ArgumentParser, other: "argparse._MutuallyExclusiveGroup") -> None:
    other.add_argument("--serve", action="store_true", help="the report as a live page on 127.0.0.1, until Ctrl-C")
    one.add_argument("--port", type=port, help="of --serve (default: a free one)")


def served(given: Given) -> bool:
    """Whether a page is asked for, which has been served then.

    Raises:
        UserError: a port is given without.
    """
    if given.port and not given.serve:
        raise UserError("--port belongs to --serve: add it")
    if given.serve:
        from moco.analysis.serve import serve

        selected(given)
        serve(given.runs_dir, given.names, given.port or 0)
    return bool(given.serve)


def add_status(commands: Commands) -> None:
    one = commands.add_parser("status", help="where each run stands")
    one.add_argument("names", nargs="*", help=NAMES)
    ways = one.add_mutually_exclusive_group()
    ways.add_argument("--watch", action="store_true", help="redraw until all have ended")
    add_serve(one, ways)
    one.add_argument("--seconds", type=positive, default=5, help="between redraws (default: 5)")
    one.set_defaults(call=status)


def status(given: Given) -> None:
    from moco.analysis import status
    from moco.analysis.standings import standings
    from moco.terminal import console

    if served(given):
        return
    if given.watch:
        status.watch(lambda: standings(selected(given)), given.seconds, console())
    else:
        status.show(standings(selected(given)), console())


def add_logs(commands: Commands) -> None:
    one = commands.add_parser("logs", help="the end of a run's log, and of those of its ranks")
    one.add_argument("name", help="id or folder")
    one.add_argument("--lines", type=count, default=40, help="how many (default: 40)")
    one.set_defaults(call=logs)


def logs(given: Given) -> None:
    run = find(given.runs_dir, given.name)
    lines = run.log_tail(given.lines)
    for rank, tail in run.rank_tails(given.lines).items():
        lines += [f"rank {rank}:", *tail]
    if not lines:
        raise UserError(f"{run.folder} has no log: it was not started by a launcher, or has not begun")
    print("\n".join(lines))


def add_cancel(commands: Commands) -> None:
    one = commands.add_parser(
        "cancel", help="stop running jobs, checkpoints saved, and take queued jobs out of the queue"
    )
    one.add_argument("names", nargs="+", help=NAMES)
    one.set_defaults(call=cancel)


def cancel(given: Given) -> None:
    from moco.analysis.cancel import cancel

    known = sweep_names(given.runs_dir)
    sweeps = [name for name in given.names if name in known]
    launchers = [pid for name in sweeps for pid in Sweep(given.runs_dir, name).launchers()]
    named = sweeps if len(sweeps) == len(given.names) else []  # a run that is named itself is cancelled for all
    print("\n".join(cancel(selected(given), launchers, named)) or "nothing is running or queued")


def add_table(commands: Commands) -> None:
    one = commands.add_parser("table", help="the result table of all finished runs, or of those named")
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("--paused", action="store_true", help="with paused runs, and the epoch that each row stands at")
    one.add_argument("--where", default="", metavar="TEST", help="such as 'm>=1024 and optimizer.name=sgd or m=64'")
    one.add_argument(
        "--sort",
        default="",
        metavar="COLUMN",
        help="accuracies from the highest, others from the lowest; -COLUMN reverses",
    )
    one.add_argument(
        "--columns",
        default="",
        metavar="A,B",
        help="only these columns, settings or metrics (repr/rankme), in this order",
    )
    one.add_argument(
        "--format", choices=formats.FORMATS, help="(default: what fits the terminal, or markdown where it is not one)"
    )
    one.add_argument("--latex", dest="format", action="store_const", const="latex", help="short for --format latex")
    one.add_argument("--out", type=Path, metavar="FILE", help="write to this file")
    one.add_argument("--into", type=Path, metavar="FILE", help="replace the block between the marks in a Markdown file")
    one.set_defaults(call=table)


def table(given: Given) -> None:
    from moco.analysis import selection, table_view
    from moco.analysis.table import lines
    from moco.terminal import console

    columns = [name.strip() for name in given.columns.split(",") if name.strip()]
    rows = selection.select(lines(selected(given), given.paused), given.where, given.sort, columns)
    if given.format == "parquet" and given.out:
        written(given.out, lambda: formats.write_parquet(rows, given.out))
        return
    text = formats.render(rows, given.format or "markdown")
    if given.into:
        written(given.into, lambda: formats.rewrite_block(given.into, text))
    elif given.out:
        written(given.out, lambda: write_atomic(given.out, text + "\n"))
    elif given.format is None and (terminal := console()):
        table_view.show(rows, terminal)
    else:
        print(text)


def add_replay(commands: Commands) -> None:
    one = commands.add_parser(
        "replay", help="whether halving would have found the best of a finished sweep, and for how much of its cost"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument(
        "--halving", type=counts, default=[2, 3, 4], metavar="N,N", help="hydra.launcher.halving (default: 2,3,4)"
    )
    one.add_argument("--rungs", type=counts, default=[1, 2], metavar="N,N", help="hydra.launcher.rungs (default: 1,2)")
    forms = [form for form in formats.FORMATS if form != "parquet"]
    one.add_argument("--format", choices=forms, help="one row per halving, in numbers (default: tables and words)")
    one.set_defaults(call=replay)


def replay(given: Given) -> None:
    from moco.analysis import replay_view
    from moco.launch.halving import Halving
    from moco.terminal import console

    if min(given.halving) < 2:
        raise UserError("--halving 1 lets all go on: give 2 or more")
    halvings = [Halving(eta, rungs) for eta in given.halving for rungs in given.rungs]
    shown = replay_view.look(selected(given), halvings)
    for line in shown.left_out:
        print(line, file=sys.stderr)
    if given.format:
        print(formats.render(shown.rows, given.format))
    else:
        replay_view.show(shown.blocks, console())


def add_measures(commands: Commands) -> None:
    one = commands.add_parser(
        "measures", help="whether RankMe, alignment and uniformity, which need no labels, rank runs as accuracies do"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    forms = [form for form in formats.FORMATS if form != "parquet"]
    one.add_argument(
        "--format", choices=forms, help="one row per measure and accuracy, in numbers (default: in words, too)"
    )
    one.set_defaults(call=measures)


def measures(given: Given) -> None:
    from moco.analysis import measures
    from moco.analysis.records import look
    from moco.analysis.replay_view import show
    from moco.terminal import console

    found = measures.compare(look(selected(given))[0])
    if not found:
        raise UserError(
            "to compare ranks takes three finished runs of one method on the same images, in two configurations"
        )
    if given.format:
        print(formats.render(measures.rows(found), given.format))
    else:
        show(measures.blocks(found), console())


def add_plot(commands: Commands) -> None:
    one = commands.add_parser(
        "plot", help="the figure for a paper, png, pdf or svg: learning curves, kNN against settings"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    one.add_argument("-o", "--out", type=Path, default=Path("curves.png"), help="the file (default: curves.png)")
    one.set_defaults(call=plot)


def plot(given: Given) -> None:
    from moco.analysis.figure import figure

    written(given.out, lambda: figure(selected(given), given.out))
    print(f"{given.out} holds the figure")


def add_report(commands: Commands) -> None:
    one = commands.add_parser(
        "report", help="one HTML file: the answer in words, sortable table, charts; opens offline"
    )
    one.add_argument("names", nargs="*", help=NAMES)
    ways = one.add_mutually_exclusive_group()
    ways.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the file (default: report.html)")
    add_serve(one, ways)
    one.set_defaults(call=report)


def report(given: Given) -> None:
    from moco.analysis.report import write

    if served(given):
        return
    answer: list[str] = []
    selected(given)
    written(given.out, lambda: answer.extend(write(given.runs_dir, given.names, given.out)))
    print("\n".join([*answer, f"{given.out} holds the table and the charts"]))


def add_views(commands: Commands) -> None:
    one = commands.add_parser(
        "views",
        help="a picture of training images beside random views of them, with what was drawn for each",
        description="Writes a PNG: some training images, chosen by the seed, each beside views as the network sees them "
        "(less the normalisation), with the crop's box, flip, colours and blur that were drawn.",
    )
    one.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="settings as for train, or the id or folder of a run (and data.root=...)",
    )
    one.add_argument("-o", "--out", type=Path, default=Path("views.png"), help="the file (default: views.png)")
    one.set_defaults(call=views)


def views(given: Given) -> None:
    from moco.analysis import views

    if is_name(given.words):
        run, changed = named(given, ("data.root",))
        images = views.of_run(run, changed.get("data.root"))
    else:
        from moco import entry

        config = entry.typed(given.words)
        from moco.training.components import Images  # torch, which words that are wrong need not wait for

        images = Images(config)
    said: list[str] = []
    written(given.out, lambda: said.append(views.write(images, given.out)))
    print("\n".join(said))


def add_show(commands: Commands) -> None:
    one = commands.add_parser(
        "show",
        help="one HTML file of a run, from its checkpoint: curves, neighbours, confusions, a map of features; opens offline",
        description="Writes an HTML file of a run that has a checkpoint, done or not: curves, the nearest neighbours of twenty "
        "test images, what kNN confuses, a map of the test images by t-SNE, the views, settings, provenance and the log's end. "
        "It computes the features of all images, on the best device here unless device=cpu is given.",
    )
    one.add_argument(
        "words", nargs="+", metavar="run", help="id or folder, then data.root=... where its images have moved"
    )
    one.add_argument("-o", "--out", type=Path, default=Path("show.html"), help="the file (default: show.html)")
    one.set_defaults(call=show)


def show(given: Given) -> None:
    from moco.analysis.show import write
    from moco.config.schema import DEVICE

    run, changed = named(given, ("data.root", "device"))
    answer: list[str] = []
    root, device = changed.get("data.root"), changed.get("device", "auto")
    if not re.fullmatch(DEVICE, device):
        raise UserError(f"device={device} should be auto, cpu, cuda, cuda:1 or mps")
    written(given.out, lambda: answer.extend(write(run, given.out, root, device)))
    print("\n".join([*answer, f"{given.out} shows the run"]))


def is_name(words: Sequence[str]) -> bool:
    """Whether the first of the words names a run, and is no setting."""
    return bool(words) and "=" not in words[0] and not words[0].startswith(("+", "~"))


def named(given: Given, keys: Sequence[str]) -> tuple[Run, dict[str, str]]:
    """The run that the first word names, and what the others set.

    Raises:
        UserError: there is no such run, or a word is not one of these keys with a value.
    """
    from moco.config.check import unknown_key

    name, *words = given.words
    changed = dict[str, str]()
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value:
            raise UserError(f"{word} is not written as key=value")
        if key not in keys:
            raise UserError(f"{unknown_key(key, keys)} (beside a run's id)")
        changed[key] = os.path.abspath(os.path.expanduser(value)) if key == "data.root" else value
    return find(given.runs_dir, name), changed


def add_sync(commands: Commands) -> None:
    one = commands.add_parser("sync", help="upload to W&B what runs have kept offline")
    one.add_argument("names", nargs="*", help=NAMES)
    one.set_defaults(call=sync)


def sync(given: Given) -> None:
    from moco.analysis.sync import sync

    sync(selected(given))


def add_dashboard(commands: Commands) -> None:
    one = commands.add_parser("dashboard", help="save a W&B workspace: table, accuracy against settings, curves")
    one.add_argument("sweep", nargs="?", help="a sweep (default: all runs)")
    one.add_argument("--dry-run", action="store_true", help="print what it would show, as JSON")
    one.set_defaults(call=dashboard)


def dashboard(given: Given) -> None:
    from moco.analysis.dashboard import publish, specification

    runs = Sweep(given.runs_dir, given.sweep).runs() if given.sweep else select(given.runs_dir)
    specified = specification(runs, given.sweep)
    print(json.dumps(dataclasses.asdict(specified), indent=1) if given.dry_run else publish(specified))


def add_export(commands: Commands) -> None:
    one = commands.add_parser("export", help="a run's backbone for plain torchvision or timm")
    one.add_argument("name", help="id or folder")
    one.add_argument("--to", choices=("torchvision", "safetensors"), default="torchvision")
    one.add_argument("--out", type=Path, help="the file (default: named after the run, here)")
    one.set_defaults(call=export)


def export(given: Given) -> None:
    from moco.export import export

    path, lines = export(find(given.runs_dir, given.name), given.to, given.out)
    print(f"{path} holds the backbone; it loads with\n\n{lines}")


def selected(given: Given) -> list[Run]:
    """The runs and the runs of the sweeps named on the command line, or all; says on stderr what cannot be read."""
    for line in [] if given.names else [*unreadable(given.runs_dir), *damaged(given.runs_dir)]:
        print(f"warning: {line}", file=sys.stderr)
    return select(given.runs_dir, given.names)


def written(path: Path, write: Callable[[], object]) -> None:
    """Calls `write`, which writes a file to `path`.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write()
    except (OSError, Unwritable) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or cause
        raise UserError(f"{path} cannot be written ({reason}): give another file") from error


def add_train(commands: Commands) -> None:
    commands.add_parser("train", add_help=False, help="what train.py does: train temperature=0.1 m=4096")


def add_linear_eval(commands: Commands) -> None:
    commands.add_parser("linear-eval", add_help=False, help="what linear_eval.py does: linear-eval run=<id>")


def train_or_evaluate(command: str, *words: str) -> int:
    """Hands the words to Hydra, which reads sys.argv."""
    from moco import entry

    sys.argv = [f"{sys.argv[0]} {command}", *words]
    entry.train() if command == "train" else entry.linear_eval()
    return 0


HYDRAS = ("train", "linear-eval")  # commands whose words are Hydra's
COMMANDS = (
    add_train,
    add_linear_eval,
    add_status,
    add_logs,
    add_cancel,
    add_table,
    add_replay,
    add_measures,
    add_plot,
    add_report,
    add_views,
    add_show,
    add_sync,
    add_dashboard,
    add_export,
)


def parser() -> argparse.ArgumentParser:
    called = "moco" if Path(sys.argv[0]).name == "moco" else "python -m moco"
    top = Parser(prog=called, description="Train and evaluate runs, and read what they left on disk.")
    commands = top.add_subparsers(required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    for name, command in commands.choices.items():
        if name not in HYDRAS:
            command.add_argument("--runs-dir", default="runs", help="where the runs' folders lie (default: runs)")
    return top


def parse(words: Sequence[str]) -> Given:
    """What the words say; settings may stand before and after options, which argparse does not take by itself."""
    top = parser()
    given, rest = top.parse_known_args(words)
    if rest and (not hasattr(given, "words") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given.words += rest
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that these words name, by default those of the command line; returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] in HYDRAS:
        return train_or_evaluate(*words)
    if "--sort" in words[:-1]:  # argparse would take --sort -tau for two options
        at = words.index("--sort")
        words[at : at + 2] = [f"--sort={words[at + 1]}"]
    try:
        given = parse(words)
        gc.set_threshold(100_000)  # thousands of runs are many small objects and no cycles
        given.call(given)
    except UserError as error:
        say(error)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # | head closed the pipe: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
