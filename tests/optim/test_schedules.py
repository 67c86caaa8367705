"""Schedules against their values at the steps that matter."""

import math

import pytest

from moco.optim import constant, cosine, scaled_lr, step


def test_constant():
    factor = constant(epochs=10, steps_per_epoch=97)
    assert [factor(s) for s in (0, 485, 969)] == [1.0, 1.0, 1.0]


def test_cosine_at_the_first_the_middle_and_the_last_step():
    factor = cosine(epochs=200, steps_per_epoch=97)
    total = 200 * 97
    assert factor(0) == 1.0
    assert factor(total // 2) == pytest.approx(0.5)
    assert factor(total // 4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor(total - 1) == pytest.approx(math.sin(math.pi / (2 * total)) ** 2)  # (1 - cos x) / 2 = sin^2(x / 2)
    assert factor(1) < factor(0)  # by step, not by epoch
    for s in range(0, total, 97):  # the notebook takes what is reached at an epoch's end for all of it, counting from 1
        assert factor(s) == pytest.approx(0.5 * (1 + math.cos(math.pi * (s // 97) / 200)))


def test_cosine_ends_at_final():
    factor = cosine(epochs=4, steps_per_epoch=5, final=0.1)
    assert [factor(0), factor(10), factor(20)] == pytest.approx([1.0, 0.55, 0.1])


@pytest.mark.parametrize("make", [constant, cosine, lambda **k: step(milestones=[5], gamma=0.1, **k)])
def test_warmup_rises_linearly_from_one_share_to_1(make):
    factor = make(epochs=10, steps_per_epoch=4, warmup_epochs=2)
    assert [factor(s) for s in range(9)] == pytest.approx([i / 8 for i in range(1, 9)] + [1.0])


def test_warmup_may_end_within_an_epoch():
    factor = constant(epochs=2, steps_per_epoch=10, warmup_epochs=0.5)
    assert [factor(s) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_spans_what_the_warmup_leaves():
    factor, short = cosine(epochs=10, steps_per_epoch=4, warmup_epochs=2), cosine(epochs=8, steps_per_epoch=4)
    assert [factor(8 + s) for s in range(33)] == pytest.approx([short(s) for s in range(33)])


def test_step_falls_at_each_milestone():
    factor = step(epochs=200, steps_per_epoch=97, milestones=[160, 120], gamma=0.1)
    at = {0: 1.0, 120 * 97 - 1: 1.0, 120 * 97: 0.1, 160 * 97 - 1: 0.1, 160 * 97: 0.01, 200 * 97 - 1: 0.01}
    assert [factor(s) for s in at] == pytest.approx(list(at.values()))


def test_milestones_count_from_the_start_of_training():
    factor = step(epochs=10, steps_per_epoch=4, warmup_epochs=2, milestones=[5], gamma=0.5)
    assert [factor(7), factor(19), factor(20)] == [1.0, 1.0, 0.5]


def test_scaled_lr():
    assert scaled_lr(0.03, 256) == 0.03
    assert scaled_lr(0.03, 512) == pytest.approx(0.06)
