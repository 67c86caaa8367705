"""Linear evaluation against scikit-learn, what must stay unchanged, and going on where it was stopped."""

import copy
import hashlib
import math
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from small_images import Views, backbone, images, to_float
from threadpoolctl import threadpool_limits

from moco.errors import UserError
from moco.evaluation import linear_probe
from moco.evaluation.features import Labelled
from moco.evaluation.fitting import ProbeSettings
from moco.evaluation.linear_probe import linear_probe_augmented, linear_probe_cached
from moco.models.modes import eval_mode


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def probe_settings(*, num_classes=10, seed=0, **settings):
    return ProbeSettings(num_classes=num_classes, seed=seed, **settings)


def split_digits(seed=0):
    """Pixels of scikit-learn's digits, in [0, 1]: training and test features with labels."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].float() / 16, y[order]
    return Labelled(x[:1200], y[:1200]), Labelled(x[1200:], y[1200:])


@pytest.fixture(scope="module")
def digits():
    return split_digits()


@pytest.mark.parametrize("split", [0, 1, 2])
def test_cached_probe_reaches_logistic_regression(split):
    train, test = split_digits(split)
    c = 0.1  # scikit-learn's penalty |w|^2 / (2 C) is on the sum of losses: a decay of 1 / (C N) on their mean
    scaler = StandardScaler().fit(train.x.numpy())
    with threadpool_limits(1):
        sklearn = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(train.x.numpy()), train.labels.numpy())
        want = 100 * sklearn.score(scaler.transform(test.x.numpy()), test.labels.numpy())
    settings = probe_settings(epochs=40, batch_size=64, lr=1e-2, weight_decay=1 / (c * len(train.x)))
    top1, top5 = linear_probe_cached(train, test, settings)
    assert abs(top1 - want) <= 0.5
    assert top1 > 95 and top1 < top5 <= 100


def test_cached_probe_does_not_depend_on_the_features_scale(digits):
    settings = probe_settings(epochs=5, batch_size=100, lr=1e-2, weight_decay=1e-6)
    plain = linear_probe_cached(*digits, settings)
    scale = torch.logspace(-4, 4, digits[0].x.shape[1])
    assert scale.numel() == 64
    moved = linear_probe_cached(*(Labelled(part.x * scale + 3 * scale, part.labels) for part in digits), settings)
    assert plain[0] > 85
    assert moved == pytest.approx(plain, abs=0.4)  # rounding may turn an image or two of 597


def digest(module):
    """Hash of all weights and buffers, BatchNorm's statistics among them."""
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(name.encode() + value.numpy().tobytes())
    return state.hexdigest()


NOISY = Views(lambda x, draws: x + 0.1 * draws)


def augmented(encoder, n=50, views=NOISY, on_step=None, start=None, **changes):
    settings = dict(num_classes=3, epochs=3, batch_size=16, lr=0.1, weight_decay=1e-6) | changes
    data = Labelled(*images(n)), Labelled(*images(31, seed=1))
    with eval_mode(encoder):
        return linear_probe_augmented(
            encoder, views, to_float, *data, probe_settings(**settings), on_step=on_step, start=start
        )


def cached(digits, on_step=None, start=None, **settings):
    return linear_probe_cached(*digits, probe_settings(**settings), on_step=on_step, start=start)


@pytest.fixture
def optimizers(monkeypatch):
    """Every Adam that is made."""
    made = []

    class Recorded(torch.optim.Adam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    return made


def test_augmented_probe_leaves_the_backbone_as_it_was_and_trains_the_classifier_alone(optimizers):
    encoder = backbone()
    before = digest(encoder)
    top1, top5 = augmented(encoder, epochs=20)
    assert digest(encoder) == before
    assert all(p.grad is None for p in encoder.parameters()) and encoder.training
    (optimizer,) = optimizers
    (group,) = optimizer.param_groups
    assert [tuple(p.shape) for p in group["params"]] == [(3, 6), (3,)]
    assert not {id(p) for p in group["params"]} & {id(p) for p in encoder.parameters()}
    assert top1 > 90 and top5 == 100


def test_learning_rate_is_constant_with_augmentation_and_a_cosine_without(optimizers, digits):
    augmented(backbone(), lr=0.1)
    cached(digits, epochs=2, batch_size=600, lr=0.1, weight_decay=0)
    constant, cosine = (o.param_groups[0]["lr"] for o in optimizers)
    assert constant == 0.1
    assert cosine == pytest.approx(0.1 * (1 + math.cos(math.pi * 3 / 4)) / 2)  # the last of its four steps


def test_probes_are_deterministic_and_seeded(optimizers, digits):
    def weights(probe, seed):
        probe(seed=seed)
        return optimizers[-1].param_groups[0]["params"][0].detach()

    settings = dict(epochs=2, batch_size=100, lr=1e-2, weight_decay=0)
    for probe in (partial(augmented, backbone()), partial(cached, digits, **settings)):
        first = weights(probe, 0)
        torch.randn(7)  # the global generator's state does not matter
        assert torch.equal(weights(probe, 0), first)
        assert not torch.equal(weights(probe, 1), first)


def test_every_step_has_its_own_order_and_views():
    seen = []

    def make(x, draws):
        seen.append((x.clone(), float(draws.sum())))
        return x

    augmented(backbone(), n=8, epochs=3, batch_size=4, views=Views(make))
    assert len({draw for _, draw in seen}) == len(seen) == 6
    epochs = [torch.cat([seen[i][0], seen[i + 1][0]]) for i in (0, 2, 4)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    for epoch in epochs:  # each image once
        assert torch.equal(epoch.float().mean((1, 2, 3)).sort().values, epochs[0].float().mean((1, 2, 3)).sort().values)
    assert len(epochs[0].flatten(1).unique(dim=0)) == 8


def test_large_batches_are_encoded_in_pieces(optimizers, monkeypatch):
    seen, encoder = [], backbone()
    views = Views(lambda x, draws: seen.append(len(x)) or x + 0.1 * draws)
    augmented(encoder, batch_size=20, views=views)
    monkeypatch.setattr(linear_probe, "AT_ONCE", 8)
    augmented(encoder, batch_size=20, views=views)
    assert seen == [20, 20, 10] * 3 + [8, 8, 4, 8, 8, 4, 8, 2] * 3
    whole, pieces = (made.param_groups[0]["params"][0].detach() for made in optimizers)
    torch.testing.assert_close(pieces, whole)


def test_on_step_hears_of_every_step():
    """With a learning rate of 0 the classifier stays at zero, whose loss is log C for every batch, the last one too."""
    heard = []
    augmented(backbone(), n=50, lr=0.0, epochs=2, on_step=lambda f: heard.append((f.step, f.steps, float(f.loss))))
    assert heard == [(step, 8, pytest.approx(math.log(3), rel=1e-6)) for step in range(1, 9)]


@pytest.mark.parametrize("at", [1, 4, 6, 12])
def test_a_probe_that_was_stopped_goes_on_bit_for_bit(optimizers, digits, at):
    """In the middle of an epoch, at its end and after the last step."""
    settings = dict(epochs=3, batch_size=300, lr=1e-2, weight_decay=1e-6)
    for probe in (partial(augmented, backbone()), partial(cached, digits, **settings)):
        kept = {}

        def stop(fitting, kept=kept):
            if fitting.step == at:
                kept |= copy.deepcopy(fitting.state())
                raise KeyboardInterrupt

        whole, weights = probe(), optimizers[-1].param_groups[0]["params"][0].detach()
        with pytest.raises(KeyboardInterrupt):
            probe(on_step=stop)
        assert probe(start=kept) == whole
        assert torch.equal(optimizers[-1].param_groups[0]["params"][0], weights)


@pytest.mark.parametrize("lr", [1e30, 1e37])
def test_a_classifier_that_diverges_is_a_failure_and_no_score(digits, lr):
    settings = dict(epochs=2, batch_size=300, lr=lr, weight_decay=1e-6)
    for probe in (partial(augmented, backbone(), **settings), partial(cached, digits, **settings)):
        with pytest.raises(
            UserError, match="the linear classifier became infinite or NaN by step .*: give a lower probe.lr"
        ):
            probe()


def test_a_classifier_that_only_swings_has_a_score(digits):
    top1, _ = cached(digits, epochs=2, batch_size=300, lr=1e3, weight_decay=0)
    assert 0 < top1 < 100


def test_a_batch_may_be_larger_than_the_data(digits):
    settings = dict(epochs=3, lr=1e-2, weight_decay=0)
    assert cached(digits, batch_size=10**20, **settings) == cached(digits, batch_size=1200, **settings)
