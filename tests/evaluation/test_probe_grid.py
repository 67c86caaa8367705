"""A grid of classifiers against single fits and scikit-learn, the choice among them, and shares of the labels."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from moco.errors import UserError
from moco.evaluation.features import Labelled
from moco.evaluation.fitting import LinearFitting, ProbeSettings, fit
from moco.evaluation.linear_probe import linear_probe_cached, looked_up, standardised
from moco.evaluation.probe_grid import Grid, GridFitting, drawn, hold_out, linear_probe_grid

SETTINGS = ProbeSettings(num_classes=10, epochs=6, batch_size=100, lr=0.0, weight_decay=0.0, seed=0)
GRID = Grid((1e-3, 1e-1), (0.0, 1e-2, 3.0), held_out=0.1)


@pytest.fixture(scope="module")
def digits():
    """Pixels of scikit-learn's digits in [0, 1], in random order."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]
    return Labelled(x[:1000], y[:1000]), Labelled(x[1000:], y[1000:])


def fitted(x, labels, settings, points):
    """The grid's classifiers on standardised features [N, D]: [G, C, D + 1], the bias last."""
    with_one = torch.cat([x, x.new_ones(len(x), 1)], 1)
    fitting = GridFitting(with_one, settings, points)
    fit(fitting, labels, begin=looked_up(with_one))
    return fitting.weights.permute(1, 2, 0)


def test_each_classifier_is_that_of_a_fit_alone(digits):
    (x,) = standardised(digits[0].x.double())
    labels = digits[0].labels
    for (lr, weight_decay), found in zip(GRID.points(), fitted(x, labels, SETTINGS, GRID.points())):
        alone = replace(SETTINGS, lr=lr, weight_decay=weight_decay, schedule="cosine")
        fitting = LinearFitting(x.shape[1], len(x), x.device, alone)
        fitting.classifier.double()
        fitting.optimizer = alone.optimizer(fitting.classifier)
        fit(fitting, labels, begin=looked_up(x))
        want = torch.cat([fitting.classifier.weight, fitting.classifier.bias[:, None]], 1).detach()
        torch.testing.assert_close(found, want, rtol=0, atol=1e-9)


def test_each_decay_has_the_optimum_of_logistic_regression(digits):
    """Within a thousandth of the lowest objective; the weights, where a decay of 0.01 or more makes that steep, within 2 %.

    Scikit-learn's penalty |w|^2 / (2 C) is on the sum of losses: a decay of 1 / (C N) on their mean. The bias decays too.
    """
    (x,) = standardised(digits[0].x)
    labels, decays = digits[0].labels, (1e-3, 1e-2, 1e-1, 1.0)
    settings = replace(SETTINGS, epochs=60)
    with_one = torch.cat([x, x.new_ones(len(x), 1)], 1)
    for decay, found in zip(decays, fitted(x, labels, settings, [(0.1, decay) for decay in decays])):
        with threadpool_limits(1):
            theirs = LogisticRegression(C=1 / (decay * len(x)), fit_intercept=False, max_iter=2000, tol=1e-6)
            want = torch.tensor(theirs.fit(with_one.double().numpy(), labels.numpy()).coef_)

        def objective(w, decay=decay):
            loss = torch.nn.functional.cross_entropy(with_one.double() @ w.double().T, labels)
            return float(loss + decay / 2 * w.double().square().sum())

        assert objective(want) <= objective(found) <= objective(want) * 1.001
        if decay >= 0.01:
            torch.testing.assert_close(found, want.float(), rtol=0, atol=0.02 * float(want.abs().max()))


def test_the_best_on_held_out_images_is_chosen_and_fitted_to_all(digits):
    train, test = digits
    accuracy, chosen = linear_probe_grid(train, test, SETTINGS, GRID)
    held = hold_out(train.labels, 0.1)
    (x,) = standardised(train.x)
    with_one = torch.cat([x, x.new_ones(len(x), 1)], 1)
    found = fitted(x[~held], train.labels[~held], SETTINGS, GRID.points())
    right = (torch.einsum("nd,gcd->gnc", with_one[held], found).argmax(2) == train.labels[held]).float().mean(1)
    assert chosen.held_out_top1 == pytest.approx(100 * float(right.max()))
    best = [point for point, top1 in zip(GRID.points(), right) if top1 == right.max()]
    assert (chosen.lr, chosen.weight_decay) in best and len(best) < 4
    alone = replace(SETTINGS, lr=chosen.lr, weight_decay=chosen.weight_decay)
    assert linear_probe_cached(train, test, alone) == accuracy


def test_of_equal_accuracies_the_lower_loss_is_chosen():
    """One feature tells two classes apart; a lower decay is surer of it."""
    x = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    part = Labelled(x, (x[:, 0] > 0).long())
    _, chosen = linear_probe_grid(
        part, part, replace(SETTINGS, num_classes=2), Grid((0.1,), (1.0, 0.1, 0.5), held_out=0.2)
    )
    assert chosen == (0.1, pytest.approx(0.1), 100)


def test_a_grid_that_was_stopped_goes_on_bit_for_bit(digits):
    """While the grid is fitted, after its last step, and while the chosen setting is fitted anew: 54 steps, then 60."""
    probe = partial(linear_probe_grid, *digits, SETTINGS, GRID)
    whole = probe()
    for at in (1, 30, 54, 54 + 25, 54 + 60):
        kept, steps = {}, iter(range(1, 1000))

        def stop(fitting, at=at, kept=kept, steps=steps):
            if next(steps) == at:
                kept |= copy.deepcopy(fitting.state())
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            probe(on_step=stop)
        assert probe(start=kept) == whole


def test_those_that_diverge_are_left_behind(digits):
    accuracy, chosen = linear_probe_grid(*digits, SETTINGS, Grid((1e37, 1e-1), (1e-3,), 0.1))
    assert accuracy.top1 > 80 and chosen.lr == pytest.approx(0.1)
    with pytest.raises(
        UserError, match="all linear classifiers became infinite or NaN by step .*: give lower probe.lrs"
    ):
        linear_probe_grid(*digits, SETTINGS, Grid((1e37,), (1e-3,), 0.1))


def test_held_out_images_are_some_of_each_class_and_never_all():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2 + [3])
    held = hold_out(labels, 0.1)
    assert [int(held[labels == c].sum()) for c in range(4)] == [5, 2, 1, 0]
    assert torch.equal(hold_out(labels, 0.1), held)
    with pytest.raises(UserError, match="no class has two training images"):
        hold_out(torch.arange(5), 0.1)


def test_draws_of_labels_have_their_share_of_each_class_and_differ():
    labels = torch.tensor([0] * 500 + [1] * 100 + [3])[torch.randperm(601, generator=torch.Generator().manual_seed(0))]
    draws = [drawn(labels, 0.01, draw) for draw in range(3)]
    for rows in draws:
        assert labels[rows].bincount().tolist() == [5, 2, 0, 1] and torch.equal(rows.unique(), rows)
    assert len({tuple(rows.tolist()) for rows in draws}) == 3 and torch.equal(drawn(labels, 0.01, 0), draws[0])
    assert labels[drawn(labels, 0.1, 0)].bincount().tolist() == [50, 10, 0, 1]
