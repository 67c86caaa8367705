"""Linear evaluation of a finished run: what is done already, and where the numbers go."""

from pathlib import Path
from typing import TYPE_CHECKING

from moco.config.schema import Data, LinearEval, OtherData
from moco.errors import UserError
from moco.io import Json
from moco.output import stand
from moco.protocols import KNN, Protocol, known_as, of_probe
from moco.runs.lease import BY_HAND, Place
from moco.runs.run import Run
from moco.runs.settings import other_settings
from moco.training.distributed import agreed, first, joined, told
from moco.training.pretrain import holding, look, now, number, scored, summary, tracking
from moco.training.same_data import WHERE, check_images, check_other, keep, moved
from moco.training.transfer import on_other_data

if TYPE_CHECKING:
    from moco.training.components import Components


def linear_eval(run: Run, asked: LinearEval, place: Place = BY_HAND, more: bool = False) -> float:
    """Linear evaluation of a finished run; its numbers join result.json, metrics.jsonl and the same wandb run.

    Args:
        asked: of it probe, tracker, device, seed, rerun and data.
        more: whether something follows, which a signal that has come by the end is to stop.

    Returns:
        Top-1 in percent.

    Raises:
        UserError: the run is not done, its checkpoint is unusable, or other data has the name of its own.
        Stopped: a signal came; the checkpoint is saved.
    """
    with joined(asked.device):
        return _evaluated(run, asked, place, more)


def _evaluated(run: Run, asked: LinearEval, place: Place, more: bool) -> float:
    """What `linear_eval` does, on each of the run's ranks."""
    with agreed():
        look(run, asked.device)
    protocol, result = asked.protocol, told(run.result)
    if result is None:
        raise UserError(f"{run.folder} is {run.state()}, not done: train it to its end first")
    if isinstance(asked, OtherData):
        on_other_data(run, asked.data)
    elif not scored(result, KNN):
        raise UserError(
            f"the data of {run.folder} has no labels to fit a classifier to: put labelled/<class>/ and test/<class>/ beside "
            "its train/, and train anew"
        )
    rerun = told(asked.rerun or run.ordered(protocol.prefix, place.launch))
    if isinstance(asked, OtherData) and not rerun:
        with agreed():
            check_other(run, asked.data)
    if protocol.top1 in result and not rerun:
        different = other_settings(result, asked)
        other = f", which was done with {different}" if different else ""
        print(
            f"{run.folder} has its linear evaluation ({protocol.record}): {summary(result)}{other} (rerun=true repeats it)"
        )
    else:
        result = _evaluate(run, asked, place, protocol, rerun, more)
        print(f"{run.folder}: {summary(result)}")
    return number(result, protocol.top1)


def _evaluate(
    run: Run, asked: LinearEval, place: Place, protocol: Protocol, rerun: bool, more: bool
) -> dict[str, Json]:
    """Builds, fits the classifier and adds its accuracies to the result, which it returns."""
    from moco.tracking.environment import check_environment
    from moco.training.checkpoint import load_encoder
    from moco.training.classifiers import Evaluation
    from moco.training.components import Components
    from moco.training.signals import Signals

    with Signals(asked.rerun) as signals:
        with signals.preparing(), agreed():
            check_environment(asked.tracker)
            stand(run.folder)
            other = asked.data if isinstance(asked, OtherData) else None
            config = on_other_data(run, other) if other else moved(run, asked.root)
            parts = Components(config, asked.device, pretrained=False)
            if not (other and rerun):
                check_images(run, parts.data_described, WHERE, other)
            if other and not parts.data.classes:
                raise UserError(f"data={config.data.name} has no labels to fit a classifier to: give one that has")
            load_encoder(run, parts.encoder).to(parts.device)
        with holding(run, "linear_eval", parts.device, place, signals) as lease:
            result = told(run.result) or {}  # another process may have added to it meanwhile
            if not rerun and protocol.top1 in result:
                return result
            if rerun and first():
                _forget(run, result, protocol)
            if other and first():
                if rerun:
                    _forget_others(run, result, parts.data_described, other)
                keep(run, parts.data_described, other)
            with tracking(asked.tracker, run, run.config, "linear_eval", place) as tracker:
                tracker.catch_up(run.metrics())
                outcome = Evaluation(parts, asked, checkpoint_of(run, protocol), lease, signals).fit()
                prefix = f"{protocol.data}/" if protocol.data else ""
                scores = {f"{prefix}{name}": score for name, score in outcome.scores.items()}
                line = {"epoch": result["epochs"], "step": result["steps"], **scores}
                _add(result, protocol, scores, {**_described(asked, parts), **outcome.also})
                lease.check()
                if first():
                    run.append_metrics(line)
                    tracker.log(int(number(result, "steps")), line)
                    run.write_result(result)
                    checkpoint_of(run, protocol).unlink(missing_ok=True)
                if more:
                    signals.obey()
                return result


def _described(asked: LinearEval, parts: "Components") -> dict[str, Json]:
    """What result.json keeps of a linear evaluation beside its accuracies."""
    num_features = parts.encoder.num_features
    assert isinstance(num_features, int)
    parameters = (num_features + 1) * len(parts.data.classes)
    return {**asked.probe.settings(), "seed": asked.seed, "params_classifier": parameters, "finished": now()}


def _add(result: dict[str, Json], protocol: Protocol, scores: dict[str, Json], described: dict[str, Json]) -> None:
    """Puts a linear evaluation into the run's result."""
    probes = result.setdefault("probes", {})
    assert isinstance(probes, dict)
    probes[protocol.record] = described
    result.update(scores)


def _forget(run: Run, result: dict[str, Json], protocol: Protocol) -> None:
    """Takes an earlier linear evaluation out, finished or not; the order to begin again is obeyed with that."""
    checkpoint_of(run, protocol).unlink(missing_ok=True)
    for one in of_probe(str(protocol.probe)):
        one = one.on(protocol.data) if protocol.data else one
        for metric in (one.metric(1), one.metric(5), one.spread):
            result.pop(metric, None)
    if isinstance(probes := result.get("probes"), dict):
        probes.pop(protocol.record, None)
    run.write_result(result)
    run.order(protocol.prefix).unlink(missing_ok=True)


def _forget_others(run: Run, result: dict[str, Json], now: dict[str, Json], data: Data) -> None:
    """Takes out all that was measured on another data set of this name, where its images were others."""
    try:
        check_other(run, data)
        check_images(run, now, other=data)
    except UserError:
        name = f"{known_as(data.name)}/"
        probes = result.get("probes")
        for kept in (result, probes if isinstance(probes, dict) else {}):
            for key in [key for key in kept if key.startswith(name)]:
                del kept[key]
        for path in run.folder.glob(f"probe_{name.replace('/', '@')}*.pt"):
            path.unlink()
        run.write_result(result)


def checkpoint_of(run: Run, protocol: Protocol) -> Path:
    """Where a linear evaluation keeps how far it is."""
    return run.folder / f"probe_{protocol.record.replace('/', '@')}.pt"
