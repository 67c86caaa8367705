"""The answer in words: which configuration is best, by how much, and whether to believe it.

Numbers are accuracies in percent after the last epoch; those of a best epoch are never used.
"""

from collections.abc import Sequence

from moco.analysis.configurations import Configuration, configurations, scored
from moco.analysis.records import Entry
from moco.analysis.statistics import CONFIDENCE, Score, difference, spread
from moco.protocols import KNN, TABULATED
from moco.runs.settings import Flat
from moco.runs.state import State

NAMED = 4  # so many runs are named in a sentence, the rest counted
FEW = 5  # with fewer seeds the interval is said to be rough

Ranking = Sequence[tuple[Configuration, Score]]


def sentences(entries: Sequence[Entry], states: Sequence[State]) -> list[str]:
    """The answer in words: for each data set the best and its margin, then what the numbers rest on and what is missing.

    Args:
        states: of each run, as records.look gives them.
    """
    said = []
    data: dict[str, list[Configuration]] = {}
    for configuration in configurations(entries):
        data.setdefault(measured_on(configuration.flat), []).append(configuration)
    for where, group in data.items():
        said += _answer(group, f"On {where}: " if len(data) > 1 else "")
    if not said:
        said.append("No run has finished yet.")
    return [*said, *_unfinished(entries, states)]


def measured_on(flat: Flat) -> str:
    """The images that accuracies are measured on: results on others cannot be compared."""
    return f"{flat['data.name']}, held-out training images" if flat.get("data.validation") else str(flat["data.name"])


def _answer(found: Sequence[Configuration], prefix: str) -> list[str]:
    """The answer for the configurations on one data set."""
    ranking = scored(found, KNN.top1)
    if not ranking:
        return []
    best, score = ranking[0]
    reached = f"{_percent(score)} kNN top-1 after the last epoch"
    if len(ranking) == 1:
        return [f"{prefix}One configuration has finished, {best.label}: {reached}.", *_linear(found, ranking, prefix)]
    counts = sorted({s.n for _, s in ranking})
    said = [
        f"{prefix}{best.label} is the best of {len(ranking)} configurations: {reached}.",
        _margin(best, ranking[1][0]),
        *_linear(found, ranking, prefix),
        f"Seeds of each configuration: {counts[0]}" + (f" to {counts[-1]}." if len(counts) > 1 else "."),
    ]
    if not best.flat.get("data.validation"):
        said.append(
            "kNN was measured on the test set, and the best setting was picked by it, so its number is a little too good: "
            "data.validation=0.1 picks on held-out training images."
        )
    return said


def _margin(best: Configuration, second: Configuration) -> str:
    """By how much the best is above the next, and what that is worth."""
    a, b = best.values(KNN.top1), second.values(KNN.top1)
    between = difference(a, b)
    if between is None:
        apart = spread(a).mean - spread(b).mean
        single = best if len(a) == 1 else second
        which = "With one seed each" if len(a) == len(b) else f"With one seed of {single.label}"
        return (
            f"The next, {second.label}, is {apart:.2f} points below. {which} a small difference may be chance: "
            "seed=0,1,2 on the command line gives three."
        )
    verdict = "more than seeds explain" if between.low > 0 else "so the two are not told apart"
    least = min(len(a), len(b))
    few = f"; with {least} seeds it is rough and too narrow" if least < FEW else ""
    return (
        f"The next, {second.label}, is {between.mean:.2f} points below ({CONFIDENCE:.0%} bootstrap interval over seeds "
        f"{between.low:.2f} to {between.high:.2f}{few}), {verdict}."
    )


def _percent(score: Score) -> str:
    return f"{score} %" + (f" (n={score.n})" if score.n > 1 else "")


def _linear(found: Sequence[Configuration], by_knn: Ranking, prefix: str) -> list[str]:
    """Whether linear evaluation agrees with kNN, by each of its protocols."""
    said = []
    for protocol in TABULATED:
        if protocol is KNN or not (ranking := scored(found, protocol.top1)):
            continue
        first, score = ranking[0]
        whose = "the same one" if first is by_knn[0][0] else first.label
        of = f" (of {len(ranking)} that have it)" if len(ranking) < len(by_knn) else ""
        said.append(f"{prefix}{protocol.words} puts {whose} first{of}: {_percent(score)}.")
    return said


def _unfinished(entries: Sequence[Entry], states: Sequence[State]) -> list[str]:
    """What is not in the comparison, by state."""
    groups: dict[State, list[str]] = {}
    for entry, state in zip(entries, states):
        if not entry.result:
            groups.setdefault(state, []).append(entry.run.folder.name if entry.problem else entry.run.id)
    if not groups:
        return []
    missing = sum(len(names) for names in groups.values())
    parts = [
        f"{len(names)} {state} ({', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''})"
        for state, names in groups.items()
    ]
    return [f"{missing} of {len(entries)} runs are not included: {', '.join(parts)}."]
