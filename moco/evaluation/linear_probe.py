"""Linear evaluation: a linear classifier on frozen features, fitted with or without augmentation."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from moco.augment.draws import DrawnViews
from moco.data.pixels import AnyImages, fetch, sizes_of
from moco.evaluation.accuracy import Accuracy
from moco.evaluation.features import Labelled, features
from moco.evaluation.fitting import Batch, FittingState, LinearFitting, OnStep, ProbeSettings, Ready, fit
from moco.ranks import collect, own
from moco.seeding import step_seed

AT_ONCE = 512  # images that are encoded at a time; it affects memory alone, where batches are larger (SimCLR's 4096)


class Images(NamedTuple):
    """Images uint8 [N, C, H, W], in memory or on disk, with their labels, int [N] in [0, num_classes)."""

    x: AnyImages
    labels: Tensor


def linear_probe_cached(
    train: Labelled,
    test: Labelled,
    settings: ProbeSettings,
    *,
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> Accuracy:
    """Test accuracy of a linear classifier on features computed once: logistic regression, without augmentation.

    Features are standardised by the mean and deviation of the training features, so that one learning rate suits every
    backbone; a linear classifier can undo this. The learning rate falls to 0 along a cosine, so that Adam settles, whatever
    the settings' schedule.

    Args:
        train, test: features [N, D].
        on_step: called after each step.
        start: the `Fitting.state` to continue from, of a call with the same arguments.

    Returns:
        Accuracy after the last epoch.

    Raises:
        UserError: the classifier diverges.
    """
    x, test_x = standardised(train.x, test.x)
    fitting = LinearFitting(x.shape[1], len(x), x.device, replace(settings, schedule="cosine"))
    fit(fitting, train.labels, begin=looked_up(x), on_step=on_step, start=start)
    return fitting.accuracy(test_x, test.labels)


def standardised(train: Tensor, *others: Tensor) -> list[Tensor]:
    """All features [N, D], less the mean and divided by the deviation of the training features."""
    deviation, mean = torch.std_mean(train, 0, correction=0)  # [D], [D]
    # A feature that varies only by rounding stays unscaled.
    deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1)
    return [(part - mean) / deviation for part in (train, *others)]


def looked_up(x: Tensor) -> Callable[[Batch], Ready]:
    """What `fit` takes for features [N, D] that are there."""
    return lambda batch: lambda step: x.index_select(0, batch.on_device)


def linear_probe_augmented(
    encode: Callable[[Tensor], Tensor],
    views: DrawnViews,
    preprocess: Callable[..., Tensor],
    train: Images,
    test: Images,
    settings: ProbeSettings,
    *,
    on_step: OnStep | None = None,
    start: FittingState | None = None,
) -> Accuracy:
    """Test accuracy of a linear classifier trained on augmented views, the backbone frozen.

    The backbone gets no gradient, and the caller sets its eval mode (moco.models.modes); the optimizer updates the classifier
    alone. Features are taken as they are. conf/probe has the settings of several sources: leftthomas/SimCLR (linear.py),
    facebookresearch/moco (main_lincls.py) and SimCLR's paper (arXiv 2002.05709, appendix B.6). Of several ranks each
    encodes a share of every batch, and all train the same classifier.

    Args:
        encode: images [B, C, H, W] -> features [B, D].
        views: uint8 batch -> augmented float batch, random by torch's global generator, which is seeded at each step.
        preprocess: uint8 batch, and the sizes of its images where they have several -> float batch, for the test images.
    The other arguments and the result are those of `linear_probe_cached`.
    """

    def begin(batch: Batch) -> Ready:
        rows = batch.on_device if isinstance(train.x, Tensor) else batch.on_cpu
        n, mine = len(rows), own(len(rows))
        share = mine if mine.stop > mine.start else slice(0, 1)  # one image, since an encoder may not take none
        load, sizes = fetch(train.x, rows[share]), sizes_of(train.x, rows)

        @torch.no_grad()
        def encoded(step: int) -> Tensor:
            images = load().x
            torch.manual_seed(step_seed(settings.seed, "probe step", step))
            draws = views.draw(n, (images.shape[-2], images.shape[-1]), images.device, sizes)[share]
            pieces = [slice(first, first + AT_ONCE) for first in range(0, len(images), AT_ONCE)]
            x = torch.cat([encode(views.apply(images[piece], draws[piece])).float() for piece in pieces])
            return collect(x[: mine.stop - mine.start], n)

        return encoded

    (one,) = features(encode, train.x[:1], preprocess)  # [1, D]
    fitting = LinearFitting(one.shape[1], len(train.x), one.device, settings)
    fit(fitting, train.labels, begin=begin, on_step=on_step, start=start)
    (test_x,) = features(encode, test.x, preprocess)
    return fitting.accuracy(test_x, test.labels)
