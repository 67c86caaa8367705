"""The entry points train.py and linear_eval.py, also as `moco train` and `moco linear-eval`: compose, check, hand over.

Under torchrun each rank composes for itself, and rank 0 speaks for all.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from moco.config.check import added_where_a_choice_has_it, check, check_linear_eval, check_words, typed_keys
from moco.config.components import choices_in
from moco.config.compose import composed, flags_first, parsed, resolved, show_help
from moco.config.help import register_help
from moco.config.places import CONF
from moco.config.refusals import refusing, refusing_all
from moco.config.schema import Config, LinearEval, WeightsEval
from moco.errors import UserError, say
from moco.io import Json
from moco.output import forgive
from moco.runs.lease import Stopped
from moco.training.distributed import first, several

if TYPE_CHECKING:
    from moco.launch.options import LauncherOptions

T = TypeVar("T")
SAYS = 5  # seconds
NO_SETTINGS = ("hydra", "sweeps")  # words for launchers and sweepers


def train() -> None:
    """Trains one run, or each of a sweep, as the command line says."""
    _start("train", Config, _train)


def linear_eval() -> None:
    """Linear evaluation of one run, of each run of a sweep, or of weights from elsewhere, as the command line says."""
    _start("linear_eval", WeightsEval, _linear_eval)


def typed(words: Sequence[str]) -> Config:
    """The configuration that train.py gets from these words, checked as it checks them, for commands that do not train.

    Raises:
        UserError: as train.py says it, a line for each word that is wrong; or a word is for launchers and sweeps alone.
    """
    check_words(words)
    with refusing():
        parse = OverridesParser.create().parse_override
        for word in words:
            if parse(word).is_sweep_override():
                raise UserError(f"{word} holds several values: give one, or write [...] for a list")
            if word.lstrip("+~").startswith(NO_SETTINGS):
                raise UserError(f"{word} has no effect where nothing is trained: leave it out")
        return check(composed(added_where_a_choice_has_it(words)), typed_keys(words))


def _start(name: str, schema: type[Config] | type[LinearEval], main: Callable[[], object]) -> None:
    """Hands over to Hydra; before that, words that are wrong are refused, and help is printed."""
    forgive()
    register_help(schema)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if first() else nowhere):
        run_or_exit(lambda: _prepared(name, schema, main))


def _prepared(name: str, schema: type[Config] | type[LinearEval], main: Callable[[], object]) -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the working directory is gone: change to another, and start there") from error
    words = sys.argv[1:]
    flags = parsed(words)
    if flags.config_dir:
        choices_in(Path(flags.config_dir).absolute())
    sys.argv[1:] = flags_first(words, flags.overrides)
    if not flags.shell_completion:  # its words are no settings
        check_words(flags.overrides, schema)
        show_help(name, flags)
        sys.argv[1:] = added_where_a_choice_has_it(sys.argv[1:])
        if name == "linear_eval" and _looks_elsewhere(sys.argv[1:]):
            sys.argv.append("probe=cached")
    with refusing_all():
        main()


def _looks_elsewhere(words: Sequence[str]) -> bool:
    """Whether a linear evaluation is of other data or of weights, and by no probe that was typed: then it is on features."""
    groups = typed_keys(words)
    return bool({"data", "weights"} & groups) and "probe" not in groups


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _train(config: DictConfig) -> float | None:
    """Returns the kNN top-1 in percent, the sweeper's objective."""
    return run_or_exit(lambda: _train_or_launch(_plain(config)))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="linear_eval")
def _linear_eval(config: DictConfig) -> float | None:
    """Returns the linear top-1 in percent of the one run."""
    return run_or_exit(lambda: _evaluate(_plain(config)))


def _plain(config: DictConfig) -> dict[str, Json]:
    """What was composed as plain data."""
    with refusing():
        return resolved(config)


def _train_or_launch(values: dict[str, Json]) -> float | None:
    """Trains the run here, or through the launcher that was asked for."""
    if options := _launcher():
        return _launch(values, options)
    from moco.training.pretrain import train

    config = check(values, typed_keys(sys.argv[1:]))
    return _of_rank(lambda: train(config))


def _launcher() -> "LauncherOptions | None":
    """The launcher's options where somebody has given some: a single run then goes through it, as a sweep of one point.

    Raises:
        UserError: they belong to a launcher that cannot do that.
    """
    from moco.launch.options import LocalOptions, known

    hydra = HydraConfig.get()
    options = OmegaConf.to_object(hydra.launcher)
    says_nothing = isinstance(options, LocalOptions) and options == type(options)()
    return None if says_nothing or hydra.mode == RunMode.MULTIRUN else known(options)


def _launch(values: dict[str, Json], options: "LauncherOptions") -> float | None:
    """Launches one run; its score where it is known at once."""
    from moco.launch.plan import exit_code, launch
    from moco.launch.preflight import Point, preflight
    from moco.runs.sweep import Sweep

    tasks = preflight(
        [Point([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")], lambda: values)]
    )
    runs_dir = str(values["runs_dir"])
    sweep = Sweep.named(runs_dir, options.sweep) if options.sweep else Sweep.unnamed(runs_dir)
    if code := exit_code(launch(tasks, options, sweep, rerun=bool(values["rerun"]))):
        sys.exit(code)
    return tasks[0].value()


def _evaluate(values: dict[str, Json]) -> float | None:
    """Evaluates the run, or launches the evaluations of a sweep."""
    asked = check_linear_eval(values, typed_keys(sys.argv[1:]))
    if isinstance(asked, WeightsEval):
        if chosen := _launcher():
            return _launch(values, chosen)
        from moco.training.weights import evaluate_weights

        return _of_rank(partial(evaluate_weights, asked))
    if (asked.run is None) == (asked.sweep is None):
        raise UserError("run is missing: give the id or folder of a finished run, run=<id>, or sweep=<name>")
    if asked.sweep:
        from moco.launch.options import known
        from moco.launch.plan import exit_code, launch
        from moco.launch.preflight import linear_tasks
        from moco.runs.sweep import Sweep

        options = known(OmegaConf.to_object(HydraConfig.get().launcher))
        ends = launch(linear_tasks(asked), options, Sweep(asked.runs_dir, asked.sweep), rerun=asked.rerun)
        if code := exit_code(ends):
            sys.exit(code)
        return None
    if chosen := _launcher():
        return _launch(values, chosen)
    from moco.runs.listing import find
    from moco.training.linear_eval import linear_eval

    run = find(asked.runs_dir, str(asked.run))
    return _of_rank(lambda: linear_eval(run, asked))


def _of_rank(job: Callable[[], T]) -> T:
    """Runs what ranks do together. Up to here all have come by the same words, and to the same errors, which rank 0 says."""
    if several():
        signal.signal(signal.SIGTERM, _end_soon)
    try:
        return job()
    except UserError as error:
        if first():
            raise
        say(UserError(f"rank {os.environ.get('RANK')}: {error}"))  # it has not met the others, which cannot say so
        sys.exit(1)


def _end_soon(number: int, frame: object) -> None:
    """What torchrun sends where another rank has failed: time enough to say what this one knows, then SIGALRM ends it."""
    signal.alarm(SAYS)


def run_or_exit(job: Callable[[], T]) -> T:
    """Runs the job; what the user can mend becomes one line per problem on stderr, and exit code 1; Ctrl-C one line and 130."""
    try:
        return job()
    except Stopped:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is saved: a second Ctrl-C is to change nothing
        if not first():  # torchrun ends all as soon as one ends badly, and rank 0 may not be that far
            sys.exit(0)
        raise
    except UserError as error:
        if not first():  # rank 0 says the same
            sys.exit(0)
        say(error)
        sys.exit(1)
    except KeyboardInterrupt:
        if first():
            print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
