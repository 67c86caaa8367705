"""The linear evaluations of MoCo's and SimCLR's authors, against a slow loop in float64."""

import math

import pytest
import torch
from common import checked
from small_images import Views, images, to_float

from moco.evaluation.features import Labelled
from moco.evaluation.fitting import LinearFitting
from moco.evaluation.linear_probe import linear_probe_augmented
from moco.training.classifiers import fitted_by


def settings(probe, *words):
    asked = checked(f"probe={probe}", "tracker=none", *words).evaluation()
    return fitted_by(asked.probe, num_classes=3, seed=asked.seed)


def test_settings_are_those_of_the_sources():
    moco, simclr = settings("moco"), settings("simclr")
    assert (moco.epochs, moco.batch_size, moco.lr, moco.weight_decay) == (100, 256, 30, 0)
    assert (moco.momentum, moco.nesterov, moco.init_std) == (0.9, False, 0.01)
    falls = [moco.factor(5 * epoch, 5) for epoch in (0, 59, 60, 79, 80, 99)]
    assert falls == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert (simclr.epochs, simclr.batch_size, simclr.lr, simclr.weight_decay) == (90, 4096, 0.1 * 4096 / 256, 0)
    assert (simclr.momentum, simclr.nesterov, simclr.init_std) == (0.9, True, 0.01)
    assert [simclr.factor(step, 2) for step in (0, 90, 180)] == pytest.approx([1, 0.5, 0])


def test_first_weights_are_small_normal_and_those_of_the_seed():
    first, again, other = (
        LinearFitting(1000, 1, torch.device("cpu"), settings("moco", f"seed={s}")) for s in (0, 0, 1)
    )
    weight = first.classifier.weight.detach()
    assert abs(float(weight.std()) - 0.01) < 5e-4 and abs(float(weight.mean())) < 1e-3
    assert torch.equal(again.classifier.weight, weight) and not torch.equal(other.classifier.weight, weight)
    assert not first.classifier.bias.any()


@pytest.mark.parametrize("probe", ["moco", "simclr"])
def test_the_classifier_is_that_of_a_slow_loop(probe):
    """50 images in batches of 16, the last one of 2; views are the images, so that each batch can be looked up again."""
    words = ["probe.epochs=4", "probe.batch_size=16", "probe.lr=3", "probe.weight_decay=0.01"]
    asked = settings(probe, *words, *["probe.milestones=[2,3]"] * (probe == "moco"))
    (x, labels), batches, fits = images(50), [], []
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(to_float(x), labels)}

    def encode(x):
        return 4 * x.mean((2, 3))

    def make(batch, _):
        batches.append((encode(batch).double(), torch.tensor([label_of[image.numpy().tobytes()] for image in batch])))
        return batch

    def on_step(fitting):
        fits.append([p.detach().double().clone() for p in fitting.classifier.parameters()])

    whole = Labelled(x, labels)
    top1, _ = linear_probe_augmented(encode, Views(make), to_float, whole, whole, asked, on_step=on_step)
    assert top1 > 50 and len(fits) == len(batches) == 16

    start = LinearFitting(3, 50, x.device, asked).classifier
    w, b = start.weight.detach().double(), start.bias.detach().double()
    speed_w, speed_b = torch.zeros_like(w), torch.zeros_like(b)
    for step, (h, of_batch) in enumerate(batches):
        if probe == "moco":
            lr, look_ahead = 3 * (1 if step < 8 else 0.1 if step < 12 else 0.01), False
        else:
            lr, look_ahead = 3 * 16 / 256 * (1 + math.cos(math.pi * step / 16)) / 2, True
        p = (h @ w.T + b).softmax(1)
        p[torch.arange(len(h)), of_batch] -= 1
        grad_w, grad_b = p.T @ h / len(h) + 0.01 * w, p.mean(0) + 0.01 * b
        speed_w, speed_b = 0.9 * speed_w + grad_w, 0.9 * speed_b + grad_b
        w = w - lr * (grad_w + 0.9 * speed_w if look_ahead else speed_w)
        b = b - lr * (grad_b + 0.9 * speed_b if look_ahead else speed_b)
        torch.testing.assert_close(fits[step], [w, b], rtol=1e-4, atol=1e-5)
