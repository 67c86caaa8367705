"""Which configuration is best, by how much, and whether to believe it: statistics over seeds, and the answer in words.

Numbers are accuracies in percent after the last epoch; a best epoch's is never used. Imports no torch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from moco.analysis.records import Entry, describe, fold, spread, swept
from moco.analysis.table import mean

CONFIDENCE = 0.95
NAMED = 4  # so many runs are named in a sentence, the rest counted


@dataclasses.dataclass(frozen=True, eq=False)  # equal to itself alone, so that scores can be kept
class Configuration:
    """The runs that differ in the seed alone, finished or not."""

    label: str  # what tells it from the others
    flat: dict[str, Any]
    entries: list[Entry]

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it."""
        return [entry.result[metric] for entry in self.entries if entry.result and metric in entry.result]

    @functools.cache  # noqa: B019 - lives as long as the command
    def score(self, metric: str) -> dict[str, float] | None:
        """Mean, sample standard deviation (None for one) and count over the seeds; None without any."""
        values = self.values(metric)
        return spread(values) if values else None


class Difference(NamedTuple):
    """Of two means, in percentage points, with its bootstrap interval over seeds."""

    mean: float
    low: float
    high: float


def configurations(entries: Sequence[Entry]) -> list[Configuration]:
    """The readable runs, folded over seeds; labelled by the method where nothing varies."""
    groups = fold(entries)
    flats = [members[0].flat for members in groups]
    keys = swept(flats)
    labels = [flat[keys[0]] for flat in flats] if keys == ["method.name"] else describe(flats, keys)
    return [Configuration(label or str(flat["method.name"]), flat, m) for label, flat, m in zip(labels, flats, groups)]


def ranked(found: Sequence[Configuration], metric: str) -> list[Configuration]:
    """Those that have the metric, from the highest mean to the lowest."""
    scored = [(score["mean"], configuration) for configuration in found if (score := configuration.score(metric))]
    return [configuration for _, configuration in sorted(scored, key=lambda pair: -pair[0])]


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """By how much the mean of `ours` is above that of `theirs`; None where either has one seed.

    The interval is the percentile bootstrap's, seeds of either side drawn independently. It is too narrow for few seeds: of
    three normal values a side it covers the true difference in about four cases of five, not in nineteen of twenty.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (ours, theirs),
        lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Difference(float(np.mean(ours) - np.mean(theirs)), float(interval.low), float(interval.high))


def sentences(entries: Sequence[Entry], states: Sequence[str]) -> list[str]:
    """The answer in words: for each data set the best and its margin, then what the numbers rest on and what is missing.

    Args:
        states: of each run, as results.look gives them.
    """
    found = configurations(entries)
    said = []
    data: dict[str, list[Configuration]] = {}
    for configuration in found:
        data.setdefault(measured_on(configuration.flat), []).append(configuration)
    for where, group in data.items():
        said += _answer(group, f"On {where}: " if len(data) > 1 else "")
    if not said:
        said.append("No run has finished yet.")
    return [*said, *_unfinished(entries, states)]


def measured_on(flat: dict[str, Any]) -> str:
    """The images that accuracies are measured on: results on others cannot be compared."""
    return f"{flat['data.name']}, held-out training images" if flat.get("data.validation") else str(flat["data.name"])


def _answer(found: Sequence[Configuration], prefix: str) -> list[str]:
    order = ranked(found, "knn/top1")
    if not order:
        return []
    best, counts = order[0], sorted({len(c.values("knn/top1")) for c in order})
    score = f"{_percent(best, 'knn/top1')} kNN top-1 after the last epoch"
    if len(order) == 1:
        return [f"{prefix}One configuration has finished, {best.label}: {score}.", *_linear(found, best, prefix)]
    said = [f"{prefix}{best.label} is the best of {len(order)} configurations: {score}."]
    said += [_margin(best, order[1]), *_linear(found, best, prefix)]
    said.append(f"Seeds of each configuration: {counts[0]}" + (f" to {counts[-1]}." if len(counts) > 1 else "."))
    if not best.flat.get("data.validation"):
        said.append(
            "kNN was measured on the test set, and the best setting picked by it, so its number is a little too good: "
            "data.validation=0.1 picks on held-out training images."
        )
    return said


def _margin(best: Configuration, second: Configuration) -> str:
    """By how much the best is above the next, and what that is worth."""
    a, b = best.values("knn/top1"), second.values("knn/top1")
    between = difference(a, b)
    if between is None:
        apart = spread(a)["mean"] - spread(b)["mean"]
        which = (
            "With one seed each" if len(a) == len(b) else f"With one seed of {(best if len(a) == 1 else second).label}"
        )
        return (
            f"The next, {second.label}, is {apart:.2f} points below. {which} a small difference may be chance: "
            "seed=0,1,2 on the command line gives three."
        )
    verdict = "more than seeds explain" if between.low > 0 else "so the two are not told apart"
    few = f"; with {min(len(a), len(b))} seeds it is rough and too narrow" if min(len(a), len(b)) < 5 else ""
    return (
        f"The next, {second.label}, is {between.mean:.2f} points below (95% bootstrap interval over seeds {between.low:.2f} to "
        f"{between.high:.2f}{few}), {verdict}."
    )


def _percent(configuration: Configuration, metric: str) -> str:
    score = configuration.score(metric) or {}
    return f"{mean(score)} %" + (f" (n={score['n']})" if score["n"] > 1 else "")


def _linear(found: Sequence[Configuration], best: Configuration, prefix: str) -> list[str]:
    """Whether linear evaluation agrees, by each of its protocols."""
    said = []
    names = {"linear": "Linear evaluation", "linear_cached": "Linear evaluation on cached features"}
    for name in names:
        if order := ranked(found, f"{name}/top1"):
            whose = "the same one" if order[0] is best else order[0].label
            of = f" (of {len(order)} that have it)" if len(order) < len(ranked(found, "knn/top1")) else ""
            said.append(f"{prefix}{names[name]} puts {whose} first{of}: {_percent(order[0], f'{name}/top1')}.")
    return said


def _unfinished(entries: Sequence[Entry], states: Sequence[str]) -> list[str]:
    """What is not in the comparison, by state."""
    groups: dict[str, list[str]] = {}
    for entry, state in zip(entries, states):
        if not entry.result:
            groups.setdefault(state, []).append(entry.run.folder.name if entry.problem else entry.run.id)
    parts = [
        f"{len(names)} {state} ({', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''})"
        for state, names in groups.items()
    ]
    done = sum(entry.result is not None for entry in entries)
    return [f"Not in it are {len(entries) - done} of {len(entries)} runs: {', '.join(parts)}."] if parts else []
