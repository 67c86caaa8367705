"""What a run's network has learnt, computed from its checkpoint: features, neighbours, confusions, a map of the test images."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moco.data.pixels import AnyImages
from moco.errors import UserError
from moco.evaluation.features import Labelled, features
from moco.evaluation.knn import neighbours, votes
from moco.models.modes import eval_mode
from moco.progress import Progress
from moco.runs.run import Run
from moco.training.checkpoint import load_checkpoint, load_weights
from moco.training.components import Components
from moco.training.same_data import WHERE, check_images, moved

if TYPE_CHECKING:
    import numpy

TESTED, NEAREST = 20, 9  # images whose neighbours are shown, and neighbours of each
MAPPED = 2000  # images on the map
PERPLEXITY = 30.0  # of t-SNE: about so many neighbours count for the place of an image


class Neighbours(NamedTuple):
    """The nearest training images of some test images, by cosine similarity, the nearest first.

    Attributes:
        images: rows of the test images, int64 [Q].
        rows: of the training images, int64 [Q, K].
        similarity: float32 [Q, K].
    """

    images: Tensor
    rows: Tensor
    similarity: Tensor


class Map(NamedTuple):
    """Test images in two dimensions. `images`: their rows, int64 [N]; `places`: float32 [N, 2]."""

    images: Tensor
    places: "numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float32]]"


@dataclass(frozen=True)
class Learnt:
    """A run's backbone as its checkpoint has it, and the features that it gives. On the CPU is all but the features.

    Attributes:
        epoch: how many epochs it was trained; not whole where it was stopped between two.
        bank_images, bank: labelled training images with features and labels, or all training images where none has a label.
        test_images, test: test images likewise; training images where there are no others.
        predicted: the class that kNN gives each test image, int64 [Q]; None without labels.
    """

    parts: Components
    epoch: float
    bank_images: AnyImages
    bank: Labelled
    test_images: AnyImages
    test: Labelled
    predicted: Tensor | None

    @property
    def is_test(self) -> bool:
        """Whether the images that are looked at were kept apart from training."""
        return self.test_images is not self.bank_images

    @property
    def classes(self) -> list[str]:
        return self.parts.data.classes

    @property
    def top1(self) -> float:
        """kNN top-1 in percent; there must be labels."""
        assert self.predicted is not None
        return 100 * float((self.predicted == self.test.labels).double().mean())

    def chosen(self, most: int) -> Tensor:
        """At most so many test images, drawn once for all: int64 [Q]."""
        return torch.randperm(len(self.test_images), generator=torch.Generator().manual_seed(0))[:most]

    def neighbours(self) -> Neighbours:
        """Those of a few test images."""
        index = self.chosen(TESTED)
        itself = 0 if self.is_test else 1  # the nearest of all, where it is in the bank
        k = min(NEAREST + itself, len(self.bank_images))
        similarity, rows = neighbours(self.bank.x, self.test.x[index.to(self.test.x.device)], k)
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, itself:]
        return Neighbours(index, rows.gather(1, order).long().cpu(), similarity.gather(1, order).cpu())

    def confusion(self) -> Tensor:
        """How many test images of each class kNN takes for each: int64 [C, C], rows are the true classes."""
        assert self.predicted is not None
        n = len(self.classes)
        return torch.bincount(self.test.labels * n + self.predicted, minlength=n * n).view(n, n)

    def map(self) -> Map:
        """Places of test images, near each other where their features are, by t-SNE (van der Maaten and Hinton, 2008)."""
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        index = self.chosen(MAPPED)
        x = F.normalize(self.test.x[index.to(self.test.x.device)], dim=1).cpu().numpy()
        if len(x) < 4:  # too few for any arrangement
            return Map(index, x[:, :2] * 0)
        spread = bool(
            x.std(0).max() > 1e-4
        )  # where all features are one, there are no principal components to begin with
        tsne = TSNE(init="pca" if spread else "random", perplexity=min(PERPLEXITY, (len(x) - 1) / 3), random_state=0)
        # Threads of OpenMP spin while they wait: beside other jobs on the same cores they take minutes where one takes seconds.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on features that hardly differ
            return Map(index, tsne.fit_transform(x))


def learnt(run: Run, root: str | None, device: str) -> Learnt:
    """Loads the run's backbone and computes the features of all images, with a bar.

    Args:
        root: where its images are now, if they were moved.

    Raises:
        UserError: there is no checkpoint or device, the images are not there or others, or features are not finite.
    """
    config = moved(run, root)
    if not run.checkpoint.exists():
        remedy = "train it anew with rerun=true" if run.result else "train it first"
        raise UserError(
            f"{run.folder} is {run.state()} and has no checkpoint.pt, which holds what it has learnt: {remedy}"
        )
    content = load_checkpoint(run.checkpoint)
    parts = Components(config, device, pretrained=False)
    check_images(run, parts.data_described, WHERE)
    load_weights(run, content, parts.encoder).to(parts.device)
    data = parts.data
    bank_images, labels = data.labelled() if data.classes else (data.train_images, data.train_labels)
    test_images, test_labels = data.test_images, data.test_labels
    if len(test_images) == 0:
        test_images, test_labels = bank_images, labels
    jobs = {"training images": bank_images} | ({} if test_images is bank_images else {"test images": test_images})
    bank, *test = _features(parts, jobs)
    of_bank = Labelled(bank, labels.cpu())
    of_test = Labelled(test[0], test_labels.cpu()) if test else of_bank
    predicted = None
    if data.classes:
        blocks = votes(
            of_bank, of_test.x, k=config.k, temperature=config.knn_temperature, num_classes=len(data.classes)
        )
        predicted = torch.cat([scores.argmax(1) for scores in blocks])
    per_epoch = max(1, len(data.train_images) // config.batch_size)
    cpu = torch.device("cpu")
    on_cpu = bank_images.to(cpu)
    return Learnt(
        parts=parts,
        epoch=content["step"] / per_epoch,
        bank_images=on_cpu,
        bank=of_bank,
        test_images=test_images.to(cpu) if test else on_cpu,
        test=of_test,
        predicted=predicted,
    )


def _features(parts: Components, images: dict[str, AnyImages]) -> list[Tensor]:
    """Features [N, D] of images under the names of what they are, on the device."""
    total, done = sum(map(len, images.values())), 0
    bar = Progress("features", total)
    bar.line("features of " + " and ".join(f"{len(x):,} {name}" for name, x in images.items()))

    def shown(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def counted(x: Tensor) -> Tensor:
            nonlocal done
            done += len(x)
            bar.update(done)
            return encode(x)

        return counted

    try:
        with eval_mode(parts.encoder):
            return [features(shown(parts.encode), x, parts.views().clean)[0] for x in images.values()]
    finally:
        bar.close()
