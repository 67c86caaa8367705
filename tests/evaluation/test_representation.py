"""RankMe, alignment and uniformity against slow float64 references and closed forms."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.augment import Augment
from moco.evaluation.representation import (
    ALIGNED,
    alignment,
    described,
    rank_me,
    spaced,
    two_views,
    uniformity,
)

CPU = torch.device("cpu")


def slow_rank_me(z: Tensor) -> float:
    """Eq. 1 and 2 of the paper, value by value, by the singular values of the whole matrix."""
    sigma = torch.linalg.svd(z.double(), full_matrices=False).S.tolist()
    total = sum(sigma)
    return math.exp(-sum((s / total + 1e-7) * math.log(s / total + 1e-7) for s in sigma))


def slow_uniformity(x: Tensor) -> float:
    rows = [(row / row.norm()).tolist() for row in x.double()]
    pairs = [math.exp(-2 * math.dist(a, b) ** 2) for a, b in itertools.combinations(rows, 2)]
    return math.log(sum(pairs) / len(pairs))


def slow_alignment(x: Tensor, y: Tensor) -> float:
    pairs = [(a / a.norm(), b / b.norm()) for a, b in zip(x.double(), y.double())]
    return sum(math.dist(a.tolist(), b.tolist()) ** 2 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("shape", [(200, 12), (7, 30), (6_000, 5)])
def test_they_are_those_of_slow_references(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    decay = 0.7 ** torch.arange(shape[1])
    x, y = (torch.randn(shape, generator=generator) * decay + 0.3 for _ in range(2))
    assert rank_me(x) == pytest.approx(slow_rank_me(x), rel=1e-7)
    assert alignment(x, y) == pytest.approx(slow_alignment(x, y), rel=1e-9)
    some = x[:200]
    assert uniformity(some) == pytest.approx(slow_uniformity(some), rel=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4])
def test_rank_me_of_collapsed_features_is_that_of_the_svd(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    direction, lengths = torch.randn(1, 256, generator=generator), torch.rand(1_000, 1, generator=generator) + 0.5
    x = lengths * direction + noise * torch.randn(1_000, 256, generator=generator)
    assert rank_me(x) == pytest.approx(slow_rank_me(x), rel=1e-3)


def test_closed_forms() -> None:
    d = 16
    basis = torch.eye(d)
    assert rank_me(basis) == pytest.approx(d, rel=1e-4)  # all singular values are alike
    assert uniformity(basis) == pytest.approx(-4)  # orthogonal: every distance is the root of 2
    assert alignment(basis, basis) == 0 and alignment(basis, basis.roll(1, 0)) == pytest.approx(2)
    assert alignment(basis, -3 * basis) == pytest.approx(4)  # opposite; lengths do not count
    single = torch.arange(1, 9).float()[:, None] * basis[:1]
    assert rank_me(single) == pytest.approx(1, rel=1e-3) and uniformity(single) == pytest.approx(0)
    two = torch.cat([3 * basis[:1], 1 * basis[1:2]])  # p is 3/4 and 1/4
    assert rank_me(two) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-4)
    angle = torch.rand(2_000, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    # Spread evenly over a circle, the mean of exp(4 cos - 4) is e^-4 times Bessel's I_0(4).
    bessel = float(torch.special.i0(torch.tensor(4.0)))
    assert uniformity(circle) == pytest.approx(math.log(bessel) - 4, abs=0.02)
    assert rank_me(circle) == pytest.approx(2, rel=1e-2)


def test_features_that_are_all_zero_or_alone_have_numbers_too() -> None:
    zero = torch.zeros(5, 3)
    assert rank_me(zero) == 0 and alignment(zero, zero) == 0 and math.isfinite(uniformity(zero))
    assert uniformity(torch.ones(1, 3)) == 0 and rank_me(torch.ones(1, 3)) == pytest.approx(1, rel=1e-5)


def test_scale_changes_nothing() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    one, other = described(x, (x[:9], x[9:18])), described(1000 * x, (7 * x[:9], x[9:18] / 7))
    assert one == pytest.approx(other, rel=1e-6) and set(one) == {"rankme", "alignment", "uniformity"}


def test_rows_are_taken_evenly() -> None:
    assert spaced(10, 5).tolist() == [0, 2, 4, 6, 8] and spaced(3, 5).tolist() == [0, 1, 2]
    labels = torch.arange(10).repeat_interleave(500)  # images in the order of their classes
    assert labels[spaced(5_000, 1_000)].bincount().tolist() == [100] * 10


def test_two_views_are_the_same_at_every_call_and_leave_the_generator_alone() -> None:
    colours = torch.randint(0, 256, (700, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = colours.expand(-1, -1, 8, 8)
    views, seen = Augment(mean=[0.5] * 3, std=[0.25] * 3), []

    def encode(x: Tensor) -> tuple[Tensor]:
        seen.append(x)
        return (x.flatten(1),)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    (one,), (other,) = two_views(encode, images, views, CPU)
    assert torch.equal(torch.rand(3), expected)
    (again,), _ = two_views(encode, images, views, CPU)
    assert torch.equal(one, again) and len(one) == ALIGNED and not torch.equal(one, other)
    # Of the same images: views of one are closer than views of two.
    close = F.cosine_similarity(one, other).mean() - F.cosine_similarity(one, other.roll(1, 0)).mean()
    assert [len(x) for x in seen] == [ALIGNED] * 4 and close > 0.2
