"""What stands beside the best of a report: what ties with it, the command that repeats it, and where it was trained."""

from collections.abc import Sequence
from typing import TypedDict

from moco.analysis.command import command
from moco.analysis.configurations import Configuration, scored
from moco.analysis.statistics import below_best, not_told_apart
from moco.io import Json, read_json
from moco.protocols import KNN
from moco.runs.run import Run

TIES = 4  # so many are named


class Tie(TypedDict):
    """A configuration that is not told apart from the best, and its gap in points."""

    label: str
    score: str
    gap: str


class Best(TypedDict):
    """The configuration with the highest kNN. `trained`: commit and hardware, a line for each that differs."""

    where: str
    label: str
    score: str
    ties: list[Tie]
    more: int
    command: str
    trained: list[str]


def best(where: str, found: Sequence[Configuration]) -> Best | None:
    """The best of the configurations that are measured on these images; None where none has finished."""
    ranking = scored(found, KNN.top1)
    if not ranking:
        return None
    (first, score), seeds = ranking[0], [one.by_seed(KNN.top1) for one, _ in ranking]
    gaps, ties = below_best(seeds), list[Tie]()
    close = not_told_apart(seeds)
    for i in close[:TIES]:
        gap = f"{score.mean - ranking[i][1].mean:.2f} points"
        if interval := gaps[i]:
            gap += f" (95 % interval: {interval.low:.2f} to {interval.high:.2f})"
        ties.append({"label": ranking[i][0].label, "score": f"{ranking[i][1]} %", "gap": gap})
    runs = [entry.run for entry in first.entries if entry.result]
    return {
        "where": where,
        "label": first.label,
        "score": f"{score} %" + (f" (n={score.n})" if score.n > 1 else ""),
        "ties": ties,
        "more": max(0, len(close) - TIES),
        "command": command(runs),
        "trained": list(dict.fromkeys(line for run in runs if (line := _trained(run)))),
    }


def _trained(run: Run) -> str:
    """The commit and the hardware of the run's last attempt; empty where they are not known."""
    attempts = read_json(run.folder / "provenance.json")
    last = attempts[-1] if isinstance(attempts, list) and attempts else None
    if not isinstance(last, dict):
        return ""
    commit, packages = last.get("commit"), last.get("packages")
    source = f"commit {commit[:12]}" if isinstance(commit, str) else "no commit known"
    source += " with changes (git.diff in its folder)" if last.get("dirty") is True else ""
    torch = packages.get("torch") if isinstance(packages, dict) else None
    parts = [source, _hardware(last), str(last.get("precision") or ""), f"torch {torch}" if torch else ""]
    return ", ".join(filter(None, parts))


def _hardware(attempt: dict[str, Json]) -> str:
    """The card, or the processor with its threads."""
    threads = attempt.get("threads")
    number = f", {threads} {'thread' if threads == 1 else 'threads'}" if isinstance(threads, int) else ""
    return str(attempt.get("card") or f"{attempt.get('cpu') or 'processor unknown'}{number}")
