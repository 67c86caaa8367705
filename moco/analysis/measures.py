"""python -m moco measures: whether what is measured without labels ranks the runs of a sweep as their accuracies do."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

from moco.analysis.configurations import Configuration, configurations, scored
from moco.analysis.formats import cell, heads
from moco.analysis.records import Entry
from moco.analysis.replay_view import Block
from moco.analysis.statistics import rank_correlation
from moco.analysis.summary import measured_on
from moco.analysis.table import Cell, Row
from moco.protocols import MEASURES, TABULATED, Measure, Protocol
from moco.runs.settings import plain, swept
from moco.terminal import Column

LOSS = Measure("train/loss", "Training loss", higher=False)  # what stands there without measuring anything
WITHIN = "within "  # before the name of a setting
NUMBERS = ("runs", "Spearman", "points below")
SPEARMAN = "Spearman: the rank correlation with the accuracy over all runs."
SHARED = "Within a setting: among the runs that share its value, the mean over the values."
PICKS = (
    "Picks: the configuration that the measure puts first, by the mean over its seeds. Points below: how far its accuracy is "
    "below that of the best."
)


class Relation(NamedTuple):
    """How a measure ranks runs, compared with an accuracy.

    Attributes:
        number: of runs that have both.
        over: Spearman's rank correlation over all of them; None where it says nothing.
        within: the same among runs that share the value of a setting, by the setting's key: the mean over the values.
        picked: the configuration that the measure puts first, by the mean over seeds.
        below: how far that is below the best, in points.
    """

    measure: Measure
    protocol: Protocol
    number: int
    over: float | None
    within: Mapping[str, float | None]
    picked: Configuration
    below: float


class Comparison(NamedTuple):
    """The relations among the runs of one method on the same images, and by protocol how far a configuration is below the
    best on average: what choosing at random costs."""

    where: str
    relations: list[Relation]
    at_random: dict[str, float]


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """The finished runs of each method on each data set by themselves: across methods the measures say nothing.

    Empty where nowhere are three runs in two configurations.
    """
    groups: dict[tuple[str, str], list[Configuration]] = {}
    for one in configurations([entry for entry in entries if entry.result]):
        where = f"{one.flat['method.name']} on {measured_on(one.flat)}"
        groups.setdefault((where, plain(one.flat.get("data.validation"))), []).append(one)
    shares = Counter(where for where, _ in groups)
    made = [
        _comparison(f"{where} (data.validation={share})" if shares[where] > 1 else where, members)
        for (where, share), members in groups.items()
    ]
    return [one for one in made if one.relations]


def _comparison(where: str, found: Sequence[Configuration]) -> Comparison:
    keys = swept([one.flat for one in found])
    relations, at_random = list[Relation](), dict[str, float]()
    for protocol in TABULATED:
        for measure in (*MEASURES.values(), LOSS):
            if relation := _relation(found, keys, measure, protocol):
                relations.append(relation)
        ranking = scored(found, protocol.top1)
        if any(relation.protocol is protocol for relation in relations):
            at_random[protocol.prefix] = ranking[0][1].mean - statistics.fmean(score.mean for _, score in ranking)
    return Comparison(where, relations, at_random)


def _relation(
    found: Sequence[Configuration], keys: Sequence[str], measure: Measure, protocol: Protocol
) -> Relation | None:
    """None where fewer than three runs in two configurations have both."""
    both = [one for one in found if _pairs(one, measure, protocol)]
    pairs = [pair for one in both for pair in _pairs(one, measure, protocol)]
    if len(both) < 2 or len(pairs) < 3:
        return None
    ranking = scored(both, measure.key)
    picked = ranking[0 if measure.higher else -1][0]
    (_, best), reached = scored(both, protocol.top1)[0], picked.score(protocol.top1)
    assert reached
    within = {key: _within(both, key, measure, protocol) for key in keys}
    return Relation(measure, protocol, len(pairs), rank_correlation(pairs), within, picked, best.mean - reached.mean)


def _pairs(one: Configuration, measure: Measure, protocol: Protocol) -> list[tuple[float, float]]:
    """The measure and the accuracy of each seed that has both."""
    values, scores = one.by_seed(measure.key), one.by_seed(protocol.top1)
    return [(value, scores[seed]) for seed, value in values.items() if seed in scores]


def _within(found: Sequence[Configuration], key: str, measure: Measure, protocol: Protocol) -> float | None:
    """The mean of the rank correlations among runs that share this setting's value, weighted by their number.

    Runs that differ in the seed alone are no group. None where there is none.
    """
    shared: dict[str, list[list[tuple[float, float]]]] = {}
    for one in found:
        shared.setdefault(plain(one.flat.get(key)), []).append(_pairs(one, measure, protocol))
    groups = [[pair for pairs in members for pair in pairs] for members in shared.values() if len(members) > 1]
    known = [(r, len(pairs)) for pairs in groups if (r := rank_correlation(pairs)) is not None]
    return sum(r * n for r, n in known) / sum(n for _, n in known) if known else None


def rows(found: Sequence[Comparison]) -> list[Row]:
    """One row per measure and accuracy: correlations, and points in percent."""
    keys = dict.fromkeys(
        key for one in found for relation in one.relations for key, r in relation.within.items() if r is not None
    )

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return [
        {
            "runs of": one.where,
            "accuracy": relation.protocol.title,
            "measure": relation.measure.title,
            "better": "higher" if relation.measure.higher else "lower",
            "runs": relation.number,
            "Spearman": rounded(relation.over),
            **{f"{WITHIN}{key}": rounded(relation.within.get(key)) for key in keys},
            "picks": relation.picked.label,
            "points below": rounded(relation.below),
        }
        for one in found
        for relation in one.relations
    ]


class Shown(TypedDict):
    """A comparison as people read it: the heads of its table, those of numbers among them, its rows by head, and sentences."""

    where: str
    heads: list[str]
    right: list[str]
    rows: list[dict[str, str]]
    notes: list[str]


def shown(one: Comparison) -> Shown:
    """The comparison's table in texts, and what its columns are."""
    found = rows([one])
    names = [name for name in heads(found) if name != "runs of"]
    titles = {protocol.prefix: protocol.title for protocol in TABULATED}
    costs = ", ".join(f"{below:.2f} points of {titles[prefix]}" for prefix, below in one.at_random.items())
    return {
        "where": one.where,
        "heads": names,
        "right": [name for name in names if name in NUMBERS or name.startswith(WITHIN)],
        "rows": [{name: _text(name, row[name]) for name in names} for row in found],
        "notes": [
            SPEARMAN,
            *[SHARED] * any(name.startswith(WITHIN) for name in names),
            PICKS,
            f"Chosen at random, a configuration is on average {costs} below the best.",
        ],
    }


def of_report(entries: Sequence[Entry]) -> list[Shown]:
    """What a report shows: of runs on which more was measured than their loss."""
    return [shown(one) for one in compare(entries) if any(r.measure is not LOSS for r in one.relations)]


def blocks(found: Sequence[Comparison]) -> list[Block]:
    """For a terminal or a file: a table for each method and data set, and below it what its columns are."""
    made = []
    for one in map(shown, found):
        columns = [
            Column(name, [row[name] for row in one["rows"]], words=name == "picks", right=name in one["right"])
            for name in one["heads"]
        ]
        made += [Block([f"{one['where']}:"], columns), Block(one["notes"], [])]
    return made


def _text(name: str, value: Cell) -> str:
    return f"{value:.2f}" if isinstance(value, float) else cell(name, value)
