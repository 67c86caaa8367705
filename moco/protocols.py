"""How runs are scored: for each protocol the names of its metrics and the words for it, in one place. Imports nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """One way to score a run.

    Attributes:
        prefix: of its metrics in metrics.jsonl, in result.json and at W&B: `knn` of `knn/top1`.
        title: in tables, in charts and on axes.
        words: at the beginning of a sentence.
        probe: the choice of the config group `probe` that stands for it; None for kNN.
        recipe_key: under which a recipe quotes the published numbers; None where nobody publishes by it.
    """

    prefix: str
    title: str
    words: str
    probe: str | None = None
    recipe_key: str | None = None

    def metric(self, k: int = 1) -> str:
        """The name of its top-k accuracy, in percent."""
        return f"{self.prefix}/top{k}"

    @property
    def top1(self) -> str:
        return self.metric(1)


KNN = Protocol("knn", "kNN", "kNN", recipe_key="knn")  # on the backbone's features
KNN_HEAD = Protocol("knn_head", "kNN (head)", "kNN on the head's output")
LINEAR = Protocol("linear", "Linear", "Linear evaluation", probe="augmented", recipe_key="linear")
LINEAR_CACHED = Protocol("linear_cached", "Linear (cached)", "Linear evaluation on cached features", probe="cached")
LINEAR_MOCO = Protocol(
    "linear_moco", "Linear (MoCo's)", "Linear evaluation as MoCo's authors do it", "moco", recipe_key="linear_moco"
)
LINEAR_SIMCLR = Protocol(
    "linear_simclr", "Linear (SimCLR's)", "Linear evaluation as SimCLR's authors do it", "simclr", "linear_simclr"
)

GUESSED = "is what guessing gives"  # said of a kNN top-1 that tells of a collapse

TABULATED = (KNN, LINEAR, LINEAR_CACHED, LINEAR_MOCO, LINEAR_SIMCLR)  # in the order of tables
LINEAR_PROTOCOLS = {p.probe: p for p in TABULATED if p.probe}  # by the choice of probe
ACCURACIES = tuple(p.metric(k) for p in (*TABULATED, KNN_HEAD) for k in (1, 5))
