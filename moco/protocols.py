"""How runs are scored: for each protocol the names of its metrics and the words for it, in one place. Imports nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Protocol:
    """One way to score a run.

    Attributes:
        prefix: of its metrics in metrics.jsonl, in result.json and at W&B: `knn` of `knn/top1`.
        title: in tables, in charts and on axes.
        words: at the beginning of a sentence.
        probe: the choice of the config group `probe` that stands for it; None for kNN.
        recipe_key: under which a recipe quotes the published numbers; None where nobody publishes by it.
        views: whether a classifier is fitted to augmented views, not to features computed once.
        share: of the labels that it uses.
        data: the other data set that it scores on; empty for the run's own.
    """

    prefix: str
    title: str
    words: str
    probe: str | None = None
    recipe_key: str | None = None
    views: bool = False
    share: float = 1.0
    data: str = ""

    def metric(self, k: int = 1) -> str:
        """The name of its top-k accuracy, in percent."""
        return f"{self.prefix}/top{k}"

    @property
    def top1(self) -> str:
        return self.metric(1)

    def at(self, k: int) -> str:
        """The name of kNN's top-1 with so many neighbours, where several numbers of them are tried."""
        return f"{self.prefix}/top1_k{k}"

    @property
    def spread(self) -> str:
        """The name of the standard deviation of top-1 over draws of the labels, where there are several."""
        return f"{self.prefix}/top1_std"

    @property
    def label(self) -> str:
        """The title with the other data set."""
        return f"{self.title} on {self.data}" if self.data else self.title

    @property
    def record(self) -> str:
        """Under which result.json keeps what a linear evaluation used."""
        return f"{self.data}/{self.probe}" if self.data else str(self.probe)

    def on(self, data: str) -> "Protocol":
        """The same on another data set than the run's own: `cifar100/linear` of `cifar100/linear/top1`."""
        name = known_as(data)
        words = f"{self.words} on {name}"
        return replace(self, prefix=f"{name}/{self.prefix}", words=words, data=name, recipe_key=None)


def known_as(data: str | None) -> str:
    """A data set's name as metrics and files have it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", str(data))


KNN = Protocol("knn", "kNN", "kNN", recipe_key="knn")  # on the backbone's features
KNN_HEAD = Protocol("knn_head", "kNN (head)", "kNN on the head's output")
LINEAR = Protocol("linear", "Linear", "Linear evaluation", "augmented", "linear", views=True)
LINEAR_CACHED = Protocol("linear_cached", "Linear (cached)", "Linear evaluation on cached features", "cached")
LINEAR_MOCO = Protocol(
    "linear_moco", "Linear (MoCo's)", "Linear evaluation as MoCo's authors do it", "moco", "linear", views=True
)
LINEAR_SIMCLR = Protocol(
    "linear_simclr",
    "Linear (SimCLR's)",
    "Linear evaluation as SimCLR's authors do it",
    "simclr",
    "linear",
    views=True,
)
LINEAR_GRID = Protocol("linear_grid", "Linear (grid)", "Linear evaluation with settings chosen from a grid", "grid")
FEWSHOT_1 = Protocol("fewshot_1", "Linear (1 %)", "Linear evaluation with 1 % of the labels", "fewshot", share=0.01)
FEWSHOT_10 = Protocol("fewshot_10", "Linear (10 %)", "Linear evaluation with 10 % of the labels", "fewshot", share=0.1)

GUESSED = "is what guessing gives"  # said of a kNN top-1 that tells of a collapse

TABULATED = (  # in the order of tables
    KNN, LINEAR, LINEAR_CACHED, LINEAR_MOCO, LINEAR_SIMCLR, LINEAR_GRID, FEWSHOT_1, FEWSHOT_10,
)  # fmt: skip
ACCURACIES = tuple(p.metric(k) for p in (*TABULATED, KNN_HEAD) for k in (1, 5))


def of_probe(probe: str) -> tuple[Protocol, ...]:
    """The protocols that a choice of probe gives the numbers of; where the first has them, all have."""
    return tuple(protocol for protocol in TABULATED if protocol.probe == probe)


def found_in(metrics: Iterable[str]) -> list[Protocol]:
    """The protocols by which there is a top-1 among these metrics: on the run's own data, then on other data sets."""
    there = set(metrics)
    own = [protocol for protocol in TABULATED if protocol.top1 in there]
    data = sorted({metric.split("/")[0] for metric in there if metric.count("/") == 2 and metric.endswith("/top1")})
    elsewhere = [protocol.on(name) for name in data for protocol in TABULATED]
    return own + [protocol for protocol in elsewhere if protocol.top1 in there]


LINEAR_PROTOCOLS = {p.probe: of_probe(p.probe)[0] for p in TABULATED if p.probe}  # the first of each choice of probe


@dataclass(frozen=True)
class Measure:
    """What is measured on features without labels, at every evaluation by kNN.

    Attributes:
        key: its name in metrics.jsonl, in result.json and at W&B.
        title: in tables and charts.
        higher: whether its authors take more of it for better.
    """

    key: str
    title: str
    higher: bool


def _measures(suffix: str = "", where: str = "") -> dict[str, Measure]:
    return {
        name: Measure(f"repr/{name}{suffix}", f"{title}{where}", higher)
        for name, title, higher in (
            ("rankme", "RankMe", True),
            ("alignment", "Alignment", False),
            ("uniformity", "Uniformity", False),
        )
    }


REPRESENTATION = _measures()  # of the backbone's features
REPRESENTATION_HEAD = _measures("_head", " (head)")
MEASURES = {measure.key: measure for measure in (*REPRESENTATION.values(), *REPRESENTATION_HEAD.values())}
