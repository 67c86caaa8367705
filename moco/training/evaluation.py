"""How a method is scored while it trains: by kNN, and without labels."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from moco.data import Dataset
from moco.data.pixels import AnyImages
from moco.evaluation.features import Labelled, features
from moco.evaluation.knn import knn_at
from moco.evaluation.representation import ROWS, described, spaced, two_views
from moco.models.modes import eval_mode
from moco.protocols import KNN, KNN_HEAD, REPRESENTATION, REPRESENTATION_HEAD
from moco.training.components import Components, Views
from moco.training.trainer import Method

NEIGHBOURS = (1, 10, 20, 100, 200)  # that vote in the last evaluation, beside the run's own k


def evaluation(
    parts: Components, method: Method, views: Views, last: Callable[[], bool] = lambda: False
) -> Callable[[], dict[str, float]]:
    """A function that measures the method's backbone and head, by the names in moco.protocols.

    By weighted kNN, top-1 and top-5 in percent, where images have labels; and by what features are like, for which those of
    kNN's bank serve too. Weights from elsewhere have no head. Without labels features are computed for as many training
    images as RankMe takes.

    Args:
        last: whether an evaluation is the run's last, which tells kNN with other numbers of neighbours, too.
    """
    config, data = parts.config, parts.data
    images, labels = _bank(data)

    def encode(x: Tensor) -> tuple[Tensor, ...]:
        with parts.autocast():
            h = method.encoder(x)  # [B, D]
            return (h,) if isinstance(method.head, nn.Identity) else (h, method.head(h))

    def evaluate() -> dict[str, float]:
        scores = dict[str, float]()
        with eval_mode(cast(nn.Module, method)):
            banks = features(encode, images, views.clean)
            queries = features(encode, data.test_images, views.clean) if data.classes else ()
            pairs = two_views(encode, images, views, parts.device)
        for protocol, b, q in zip((KNN, KNN_HEAD), banks, queries):
            more = [k for k in NEIGHBOURS if k <= len(labels)] if protocol is KNN and last() else []
            found = knn_at(
                Labelled(b, labels),
                Labelled(q, data.test_labels),
                list(dict.fromkeys([config.k, *more])),
                temperature=config.knn_temperature,
                num_classes=len(data.classes),
            )
            scores[protocol.metric(1)], scores[protocol.metric(5)] = found[config.k]
            scores |= {protocol.at(k): found[k].top1 for k in more}
        for measures, b, x, y in zip((REPRESENTATION, REPRESENTATION_HEAD), banks, *pairs):
            scores |= {measures[name].key: value for name, value in described(b, (x, y)).items()}
        return scores

    return evaluate


def _bank(data: Dataset) -> tuple[AnyImages, Tensor]:
    """The labelled images with their labels, or some training images where none has one."""
    if data.classes:
        return data.labelled()
    rows = spaced(len(data.train_images), ROWS)
    return data.train_images[rows], data.train_labels[rows]
