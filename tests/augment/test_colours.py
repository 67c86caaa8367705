"""Batched colours against torchvision's adjustments, and ColorJitter's draws against its distributions."""

import math
from collections import Counter

import pytest
import torch
from draws import agrees_with_probability
from scipy import stats
from torchvision.transforms.v2 import functional as TF

from moco.augment import colours
from moco.augment.colours import color_jitter, draw_jitter, luma, mix_, mix_weights, turn_hue


def test_luma_is_torchvisions_grayscale():
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(luma(x), TF.rgb_to_grayscale(x), atol=2e-4, rtol=0)  # its first weight is 0.2989


@pytest.mark.parametrize(
    "operation, function", [(0, TF.adjust_brightness), (1, TF.adjust_contrast), (2, TF.adjust_saturation)]
)
def test_mix_is_torchvisions_adjustment(operation, function):
    x, factors = torch.rand(12, 3, 16, 16), torch.linspace(0, 2.2, 12)
    ours = mix_(x.clone(), *mix_weights(torch.full((12, 1, 1, 1), operation), factors.view(-1, 1, 1, 1)))
    theirs = torch.stack([function(image, float(f)) for image, f in zip(x, factors)])
    torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=0)


def test_hue_is_torchvisions(photos):
    x, shifts = photos[:21] / 255, torch.linspace(-0.5, 0.5, 21)
    ours = turn_hue(x, shifts.view(-1, 1, 1, 1))
    theirs = torch.stack([TF.adjust_hue(image, float(s)) for image, s in zip(x, shifts)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_hue_of_gray_black_and_pure_colours():
    gray = torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    torch.testing.assert_close(turn_hue(gray, torch.full((1, 1, 1, 1), 0.2)), gray)
    pure = torch.eye(3).view(1, 3, 1, 3)  # red, green, blue: a third of a turn makes each the next
    torch.testing.assert_close(turn_hue(pure, torch.full((1, 1, 1, 1), 1 / 3)), pure.roll(1, 1), atol=1e-6, rtol=0)


@pytest.fixture
def recorded(monkeypatch):
    """recorded(x, strength, p) -> the jittered images, and for each image its operations [(name, factor), ...] in turn."""
    calls = []

    def note_mix(x, own, gray, mean):
        calls.append(((2 * (gray != 0) + (mean != 0)).flatten(), own.flatten()))
        return mix_(x, own, gray, mean)

    def note_hue(x, shift):
        calls.append((torch.full((len(x),), 3), shift.flatten()))
        return turn_hue(x, shift)

    def run(x, strength, p):
        calls.clear()
        monkeypatch.setattr(colours, "mix_", note_mix)
        monkeypatch.setattr(colours, "turn_hue", note_hue)
        jittered = color_jitter(x, draw_jitter(len(x), strength, p, x.device), hue=bool(strength[3]))
        kinds = torch.stack([kind for kind, _ in calls], 1).tolist()
        factors = torch.stack([factor for _, factor in calls], 1).tolist()
        neutral = {0: 1, 1: 1, 2: 1, 3: 0}
        return jittered, [[(k, f) for k, f in zip(*row) if f != neutral[k]] for row in zip(kinds, factors)]

    return run


def test_jitter_draws_factors_and_order_as_torchvision_does(recorded):
    n, strength = 6000, (0.4, 0.5, 1.3, 0.1)
    _, sequences = recorded(torch.rand(n, 3, 1, 1), strength, 1.0)
    orders = Counter(tuple(kind for kind, _ in sequence) for sequence in sequences if len(sequence) == 4)
    # A neutral factor, one in 10^7, is not recorded.
    assert len(orders) == math.factorial(4) and sum(orders.values()) > n - 5
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3
    ranges = [(0.6, 1.4), (0.5, 1.5), (0.0, 2.3), (-0.1, 0.1)]
    for kind, (low, high) in enumerate(ranges):
        drawn = [factor for sequence in sequences for k, factor in sequence if k == kind]
        assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_jitter_spares_the_others(recorded):
    x = torch.rand(4000, 3, 2, 2)
    jittered, sequences = recorded(x, (0.4, 0.4, 0.4, 0.1), 0.8)
    spared = torch.tensor([not sequence for sequence in sequences])
    assert agrees_with_probability(int(spared.sum()), 4000, 0.2)
    torch.testing.assert_close(jittered[spared], x[spared], atol=1e-6, rtol=0)


def test_jitter_without_hue_never_turns_it(recorded):
    _, sequences = recorded(torch.rand(200, 3, 2, 2), (0.4, 0.4, 0.4, 0.0), 1.0)
    assert all(sorted(kind for kind, _ in sequence) == [0, 1, 2] for sequence in sequences)


def test_jitter_is_torchvisions_operations_in_that_order(recorded, photos):
    x = photos / 255
    jittered, sequences = recorded(x, (0.8, 0.8, 0.8, 0.4), 0.9)
    functions = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for image, ours, sequence in zip(x, jittered, sequences):
        for kind, factor in sequence:
            image = functions[kind](image, factor)
        torch.testing.assert_close(ours, image, atol=1e-3, rtol=0)
