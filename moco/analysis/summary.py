"""The answer in words: which configuration is best, or which may be, by how much, and what the numbers rest on.

Numbers are accuracies in percent after the last epoch; those of a best epoch are never used.
"""

from collections.abc import Sequence

from moco.analysis.configurations import Configuration, configurations, scored
from moco.analysis.records import Entry, paused_note
from moco.analysis.statistics import CONFIDENCE, Score, below_best, not_told_apart
from moco.analysis.training_budget import differences
from moco.protocols import KNN, TABULATED
from moco.runs.settings import Flat
from moco.runs.state import State

NAMED = 4  # so many runs are named in a sentence, the rest counted

Ranking = Sequence[tuple[Configuration, Score]]


def sentences(entries: Sequence[Entry], states: Sequence[State]) -> list[str]:
    """The answer in words: for each data set the best and its margin, then what the numbers rest on and what is missing.

    Finished runs alone are compared; of paused ones it says how many there are, and what the sweep has cost.

    Args:
        states: of each run, as records.look gives them.
    """
    said = []
    data = by_images(configurations(entries))
    for where, group in data.items():
        said += _answer(group, f"On {where}: " if len(data) > 1 else "")
    if said and len(data) > 1:
        said.append(f"Results on {' and '.join(data)} are not compared; the table and the charts show them together.")
    if not said:
        done = sum(entry.result is not None for entry in entries)
        finished = f"{done} of {len(entries)} runs have finished, without a score, as their data has no labels."
        said.append(finished if done else "No run has finished yet.")
    return [*said, *_paused(entries), *_unfinished(entries, states)]


def by_images(found: Sequence[Configuration]) -> dict[str, list[Configuration]]:
    """The configurations by the images that they are measured on."""
    data: dict[str, list[Configuration]] = {}
    for configuration in found:
        data.setdefault(measured_on(configuration.flat), []).append(configuration)
    return data


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
    paused = any(configuration.at_rung for configuration in found)
    if len(ranking) == 1:
        said = [f"{prefix}One configuration has finished, {best.label}: {reached}.", *_linear(found, ranking, prefix)]
        return said + _picked(best, paused)
    counts = sorted({s.n for _, s in ranking})
    whom = "finished configurations" if paused else "configurations"
    budgets = differences([configuration for configuration, _ in ranking])
    said = [
        f"{prefix}{_standing(ranking, reached, f'{whom} of different budgets ({budgets})' if budgets else whom)}",
        *_budget(bool(budgets)),
        _margin(ranking),
        *_linear(found, ranking, prefix),
        f"Seeds of each configuration: {counts[0]}" + (f" to {counts[-1]}." if len(counts) > 1 else "."),
    ]
    return said + _picked(best, True)


def _picked(best: Configuration, chosen: bool) -> list[str]:
    """What the number is to be taken with, where the configuration was chosen by it."""
    if not chosen or best.flat.get("data.validation"):
        return []
    return [
        "kNN was measured on the test set, and the best setting was picked by it, so its number is a little too good: "
        "data.validation=0.1 picks on held-out training images."
    ]


def _budget(differs: bool) -> list[str]:
    """What to beware of where configurations differ in their budgets."""
    said = "A number may be higher for a longer training or another split of the images alone: compare those of one budget."
    return [said] if differs else []


def _standing(ranking: Ranking, reached: str, whom: str) -> str:
    """Which is the best of whom, or which may be, since seeds do not tell them apart."""
    best, others = ranking[0][0].label, len(ranking) - 1
    if all(score.n == 1 for _, score in ranking):
        return f"With one seed each nothing is told apart: {best} is the highest of {len(ranking)} {whom}, {reached}."
    close = [ranking[i] for i in not_told_apart(_by_seed(ranking, KNN.top1))]
    if not close:
        rest = "all others" if others > 1 else "the other"
        return f"{best} is the best of {len(ranking)} {whom}: {reached}, told apart from {rest} by seeds."
    single = sum(score.n == 1 for _, score in [ranking[0], *close])
    note = f" ({single} of them with one seed)" if single else ""
    names = ", ".join(configuration.label for configuration, _ in close[:NAMED])
    more = f" and {len(close) - NAMED} more" if len(close) > NAMED else ""
    which = f"one of {len(close) + 1}" if len(close) < others else "any of them"
    return (
        f"The best of {len(ranking)} {whom} may be {which}, which seeds do not tell apart{note}: {best} with the highest "
        f"mean ({reached}), {names}{more}."
    )


def _close(count: int, others: int) -> str:
    """That so many of the others are not told apart from the first."""
    if count == others:
        return f"{'the other is not' if others == 1 else f'none of the {others} others is'} told apart from it"
    return f"{count} of {others} others {'is' if count == 1 else 'are'} not told apart from it"


def _margin(ranking: Ranking) -> str:
    """By how much the first is above the next, and how sure that is."""
    (best, score), (second, next_score) = ranking[:2]
    below = f"The next, {second.label}, is {score.mean - next_score.mean:.2f} points below"
    if min(score.n, next_score.n) == 1:
        single = best if score.n == 1 else second
        which = "one seed each" if score.n == next_score.n else f"one seed of {single.label}"
        return f"{below}, which may be chance with {which}: -m seed=0,1,2 gives three."
    found = below_best(_by_seed(ranking, KNN.top1))[1]
    if found is None:
        return f"{below}. That does not vary from seed to seed, so there is no interval."
    compared = sum(score.n > 1 for _, score in ranking)
    together = f", {compared} compared at once" if compared > 2 else ""
    return f"{below} ({CONFIDENCE:.0%} interval over seeds{together}: {found.low:.2f} to {found.high:.2f})."


def _by_seed(ranking: Ranking, metric: str) -> list[dict[str, float]]:
    return [configuration.by_seed(metric) for configuration, _ in ranking]


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
        close = not_told_apart(_by_seed(ranking, protocol.top1)) if any(score.n > 1 for _, score in ranking) else []
        but = f", but {_close(len(close), len(ranking) - 1)}" if close else ""
        said.append(f"{prefix}{protocol.words} puts {whose} first{of}: {_percent(score)}{but}.")
    return said


def _paused(entries: Sequence[Entry]) -> list[str]:
    """How many runs are paused, and what all of them have cost; nothing where none is."""
    note = paused_note(entries)
    if not note:
        return []
    from moco.launch.budget import spent  # which takes its time to load

    which = "it is" if sum(entry.rung is not None for entry in entries) == 1 else "they are"
    return [
        f"{note}: {which} not compared with those that have finished.",
        f"All runs together have trained {spent([entry.run for entry in entries if entry.flat])}.",
    ]


def _unfinished(entries: Sequence[Entry], states: Sequence[State]) -> list[str]:
    """What else is not in the comparison, by state."""
    groups: dict[State, list[str]] = {}
    for entry, state in zip(entries, states):
        if not entry.result and not entry.rung:
            groups.setdefault(state, []).append(entry.run.folder.name if entry.problem else entry.run.id)
    if not groups:
        return []
    missing = sum(len(names) for names in groups.values())
    parts = [
        f"{len(names)} {state} ({', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''})"
        for state, names in groups.items()
    ]
    return [f"{missing} of {len(entries)} runs are not included: {', '.join(parts)}."]
