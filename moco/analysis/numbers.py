"""The numbers of a run: of one that is done, of one that is paused, and those that its recipe quotes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from moco.io import Json
from moco.protocols import KNN, TABULATED, Protocol, found_in
from moco.runs.settings import Flat


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number; True and False are not."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


class Size(NamedTuple):
    """Of a network: parameters, and multiply-adds of one image's forward pass."""

    params: int
    multiply_adds: int


@dataclass(frozen=True)
class Published:
    """What a recipe's source reports, and the source's name. `scores`: top-1 and top-5 in percent by `recipe_key`."""

    recipe: str
    source: str
    scores: dict[str, list[float | None]]

    def top(self, protocol: Protocol) -> dict[int, float]:
        """The accuracies that are reported by this protocol: {1: 89.1, 5: 99.6}."""
        quoted = self.scores.get(protocol.recipe_key or "", [])
        return {k: value for k, value in zip((1, 5), quoted) if value is not None}


@dataclass(frozen=True)
class Result:
    """The numbers of a finished run.

    Attributes:
        metrics: the last value of each metric (knn/top1, train/loss ...); accuracies in percent.
        best: kNN top-1 of the best epoch, in percent; never what counts.
        whole: the size of backbone and projection head.
        backbone: that of the backbone; None where there is no linear evaluation.
        probes: what each linear evaluation used, by `Protocol.record`.
        seconds: of training with its evaluations; None where unknown.
        steps: of training; None where unknown.
        at_chance: whether its kNN top-1 is what guessing gives.
    """

    metrics: dict[str, float]
    best: float | None
    whole: Size
    backbone: Size | None
    probes: dict[str, dict[str, Json]]
    seconds: float | None
    steps: float | None
    at_chance: bool

    def probe(self, protocol: Protocol) -> dict[str, Json]:
        """What the linear evaluation by this protocol used."""
        return self.probes.get(protocol.record, {})

    def size(self, protocol: Protocol) -> Size:
        """The size of what this protocol scores: for linear evaluation the backbone with the classifier."""
        if protocol.probe is None or self.backbone is None:
            return self.whole
        head = self.probe(protocol).get("params_classifier")  # a linear layer multiplies and adds once per parameter
        weights = int(head) if is_number(head) else 0
        return Size(self.backbone.params + weights, self.backbone.multiply_adds + weights)


@dataclass(frozen=True)
class Reached:
    """The last epoch that a run has completed, of those of the whole run."""

    epoch: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.epoch} of {self.epochs}"

    @property
    def share(self) -> float:
        """Of the whole run."""
        return self.epoch / self.epochs if self.epochs else 0.0


class Rung(NamedTuple):
    """Where a paused run stands.

    Attributes:
        reached: its epoch.
        metrics: the newest value of each metric (knn/top1, train/loss ...); accuracies in percent.
        why: the reason in words.
    """

    reached: Reached
    metrics: dict[str, float]
    why: str


def lacking(content: Mapping[str, Json]) -> list[str]:
    """The numbers that a result should hold and does not."""
    unlabelled = content.get(KNN.top1, "") is None  # see pretrain.scored
    scored = [protocol for protocol in found_in(content) if not (unlabelled and protocol == KNN)]
    needed = [*([] if unlabelled else [KNN.top1]), "params", "multiply_adds"]
    needed += [protocol.metric(5) for protocol in scored]
    if any(protocol.probe for protocol in scored):
        needed += ["params_backbone", "multiply_adds_backbone"]
    needed += [protocol.top1 for protocol in scored]
    return [key for key in dict.fromkeys(needed) if not is_number(content.get(key))]


def result(content: Mapping[str, Json]) -> Result:
    """The content of a result.json that lacks nothing."""

    def number(key: str) -> float | None:
        value = content.get(key)
        return value if is_number(value) else None

    def size(suffix: str) -> Size | None:
        params, multiply_adds = number(f"params{suffix}"), number(f"multiply_adds{suffix}")
        return None if params is None or multiply_adds is None else Size(int(params), int(multiply_adds))

    whole, best, probes = size(""), content.get("best"), content.get("probes")
    assert whole is not None  # see lacking
    top = best.get(KNN.top1) if isinstance(best, dict) else None
    return Result(
        metrics={key: value for key, value in content.items() if "/" in key and is_number(value)},
        best=top if is_number(top) else None,
        whole=whole,
        backbone=size("_backbone"),
        probes={key: p for key, p in probes.items() if isinstance(p, dict)} if isinstance(probes, dict) else {},
        seconds=number("seconds"),
        steps=number("steps"),
        at_chance=content.get("at_chance") is True,
    )


def published(config: Flat) -> Published | None:
    """What the configuration's recipe quotes; None where it quotes nothing."""
    source, note = config.get("recipe.source"), config.get("recipe.note")
    if not source:
        return None
    scores: dict[str, list[float | None]] = {}
    for protocol in TABULATED:
        quoted = config.get(f"recipe.{protocol.recipe_key}")
        if protocol.recipe_key and isinstance(quoted, list):
            scores[protocol.recipe_key] = [value if is_number(value) else None for value in quoted]
    return Published(str(config.get("recipe.name")), f"{source} ({note})" if note else str(source), scores)
