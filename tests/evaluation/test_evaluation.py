"""kNN against a double loop in float64, linear evaluation against scikit-learn, and what must stay unchanged."""

import copy
import hashlib
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from moco.evaluation import knn as evaluation
from moco.evaluation.knn import (
    count,
    eval_mode,
    features,
    knn,
    linear_probe_augmented,
    linear_probe_cached,
    topk_accuracy,
)
from moco.seeding import step_seed


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def backbone():
    """3x8x8 images -> 6 features, with BatchNorm and Dropout."""
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def to_float(images):
    return images.float() / 255


def images(n, seed=0):
    """Noise, brighter in the channel of the label. uint8 [n, 3, 8, 8] and int64 [n]"""
    labels = torch.arange(n) % 3
    x = torch.randint(0, 128, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    x[torch.arange(n), labels] += 127
    return x.to(torch.uint8), labels


# kNN


def slow_knn(bank, bank_labels, queries, labels, k, temperature, num_classes):
    """The formula of the paper by a double loop in float64: top-1 and top-5 in percent."""
    hits1 = hits5 = 0
    for query, label in zip(queries.double(), labels.tolist()):
        similarity = [float(query @ row / query.norm() / row.norm()) for row in bank.double()]
        nearest = sorted(range(len(bank)), key=lambda j: -similarity[j])[:k]
        votes = [0.0] * num_classes
        for j in nearest:
            votes[int(bank_labels[j])] += math.exp((similarity[j] - similarity[nearest[0]]) / temperature)
        order = sorted(range(num_classes), key=lambda c: -votes[c])
        hits1 += label == order[0]
        hits5 += label in order[:5]
    return 100 * hits1 / len(queries), 100 * hits5 / len(queries)


def random_data(n=83, q=37, dim=6, num_classes=12):
    """Features of any length that say something, not all, about the label."""
    centres = torch.randn(num_classes, dim)
    labels = torch.randint(num_classes, (n + q,))
    x = (centres[labels] + torch.randn(n + q, dim)) * torch.rand(n + q, 1).add(0.1)
    return x[:n], labels[:n], x[n:], labels[n:]


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("k, blocks", [(1, (1000, 1000)), (10, (10, 16)), (40, (7, 30)), (83, (36, 82))])
def test_knn_equals_the_slow_loop(k, blocks, temperature):
    data = random_data()
    want = slow_knn(*data, k, temperature, 12)
    assert 10 < want[0] < 90 and want[0] < want[1] < 100  # neither guessing nor trivial
    got = knn(*data, k=k, temperature=temperature, num_classes=12, query_block=blocks[0], bank_block=blocks[1])
    assert got == pytest.approx(want)


def test_knn_does_not_change_the_features():
    bank, bank_labels, queries, labels = random_data()
    before = bank.clone(), queries.clone()
    knn(bank, bank_labels, queries, labels, k=5, temperature=0.1, num_classes=12)
    assert torch.equal(bank, before[0]) and torch.equal(queries, before[1])


def circle(*degrees):
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize("temperature, winner", [(1e6, 0), (1e-6, 1), (1e-30, 1)])
def test_knn_between_a_vote_and_the_nearest(temperature, winner):
    """One neighbour of class 1 at 1 degree, two of class 0 further away: a vote says 0, the nearest says 1."""
    bank, bank_labels = circle(1.0, 20.0, -25.0, 180.0), torch.tensor([1, 0, 0, 1])
    label = torch.tensor([winner])
    assert knn(bank, bank_labels, circle(0.0), label, k=3, temperature=temperature, num_classes=2)[0] == 100
    assert knn(bank, bank_labels, circle(0.0), 1 - label, k=3, temperature=temperature, num_classes=2)[0] == 0


def test_knn_weights_are_exp_of_similarity_over_temperature():
    """Two at 60 degrees against one at 0 degrees: they balance where 2 exp(0.5 / t) = exp(1 / t), t = 0.5 / log 2."""
    bank, bank_labels, balance = circle(0.0, 60.0, -60.0), torch.tensor([0, 1, 1]), 0.5 / math.log(2)
    for temperature, winner in ((balance * 0.999, 0), (balance * 1.001, 1)):
        label = torch.tensor([winner])
        assert knn(bank, bank_labels, circle(0.0), label, k=3, temperature=temperature, num_classes=2)[0] == 100


def test_nearest_neighbour_of_the_bank_in_itself_is_itself():
    bank, bank_labels, *_ = random_data()
    assert knn(bank, bank_labels, bank, bank_labels, k=1, temperature=0.1, num_classes=12) == (100.0, 100.0)


def test_knn_top5_of_few_classes_is_of_them_all_and_counts_classes_without_a_vote_last():
    bank, bank_labels = torch.eye(8), torch.arange(8)
    settings = dict(k=2, temperature=0.1, num_classes=8, query_block=3)
    # Query: nearest to row 7, then to row 6; then come the classes without a vote, 0 to 5 in that order.
    query = F.one_hot(torch.tensor(7), 8).float() + 0.5 * F.one_hot(torch.tensor(6), 8)
    top = {7: (100, 100), 6: (0, 100), 0: (0, 100), 2: (0, 100), 3: (0, 0), 5: (0, 0)}
    for label, accuracy in top.items():
        assert knn(bank, bank_labels, query.view(1, 8), torch.tensor([label]), **settings) == accuracy
    few = knn(torch.eye(3), torch.arange(3), torch.eye(3), torch.tensor([1, 2, 0]), k=1, temperature=1, num_classes=3)
    assert few == (0.0, 100.0)


def test_equal_votes_go_to_the_lower_class():
    bank, query = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    for bank_labels in (torch.tensor([2, 1]), torch.tensor([1, 2])):
        assert knn(bank, bank_labels, query, torch.tensor([1]), k=2, temperature=0.1, num_classes=3)[0] == 100


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"k": 84}, "k=84 .* give k from 1 to 83"),
        ({"k": 0}, "give k from 1 to 83"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"temperature": -1.0}, "must be positive"),
    ],
)
def test_knn_refuses_impossible_numbers(wrong, message):
    with pytest.raises(ValueError, match=message):
        knn(*random_data(), **({"k": 5, "temperature": 0.1, "num_classes": 12} | wrong))


def test_topk_accuracy():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.4], [0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    labels = torch.tensor([1, 1, 2, 0])  # ranks 0; 1 (of equals the lower comes first); 2; NaN is last
    assert topk_accuracy(scores, labels, (1, 2, 3)) == (25.0, 50.0, 100.0)


# Features and modes


def test_features_are_the_forward_pass_in_float32():
    encoder, (x, _) = backbone().eval(), images(11)

    def encode(batch):
        h = encoder(batch)
        return h, h[:, :2].bfloat16()

    first, second = features(encode, x, to_float, batch_size=4)
    with torch.no_grad():
        want = encoder(to_float(x))
    torch.testing.assert_close(first, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, want[:, :2].bfloat16().float(), rtol=1e-2, atol=1e-3)
    assert first.dtype == second.dtype == torch.float32 and not first.requires_grad
    (single,) = features(encoder, x, to_float)
    torch.testing.assert_close(single, want)
    nn.Linear(6, 2)(single).sum().backward()  # usable in training, which inference-mode tensors are not


def test_eval_mode_restores_every_flag():
    module = backbone()
    module[1].eval()
    flags = [m.training for m in module.modules()]
    assert len(set(flags)) == 2
    with pytest.raises(RuntimeError, match="inside"):
        with eval_mode(module):
            assert not any(m.training for m in module.modules())
            raise RuntimeError("inside")
    assert [m.training for m in module.modules()] == flags


def test_count_of_a_convolution_and_a_linear_layer():
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 25, 7))
    before = digest(module)
    assert count(module, 5, channels=2) == (4 * 2 * 9 + 4 + 8 + 700 + 7, 4 * 2 * 9 * 25 + 700)
    assert digest(module) == before and all(m.training for m in module.modules())
    assert count(nn.Flatten(), 5) == (0, 0)


def test_count_of_resnet18_with_the_cifar_stem():
    from torchvision.models import resnet18

    module = resnet18()
    module.conv1, module.maxpool, module.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()
    params, multiply_adds = count(module, 32)
    assert params == 11_168_832
    assert multiply_adds == 555_417_600


# Linear evaluation


def split_digits(seed=0):
    """Pixels of scikit-learn's digits, in [0, 1]: training and test features with labels."""
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].float() / 16, y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


@pytest.fixture(scope="module")
def digits():
    return split_digits()


@pytest.mark.parametrize("split", [0, 1, 2])
def test_cached_probe_reaches_logistic_regression(split):
    train, train_labels, test, test_labels = split_digits(split)
    c = 0.1  # scikit-learn's penalty |w|^2 / (2 C) is on the sum of losses: a decay of 1 / (C N) on their mean
    scaler = StandardScaler().fit(train.numpy())
    with threadpool_limits(1):
        sklearn = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(train.numpy()), train_labels.numpy())
        want = 100 * sklearn.score(scaler.transform(test.numpy()), test_labels.numpy())
    top1, top5 = linear_probe_cached(
        train,
        train_labels,
        test,
        test_labels,
        num_classes=10,
        epochs=40,
        batch_size=64,
        lr=1e-2,
        weight_decay=1 / (c * len(train)),
        seed=0,
    )
    assert abs(top1 - want) <= 0.5
    assert top1 > 95 and top1 < top5 <= 100


def test_cached_probe_does_not_depend_on_the_features_scale(digits):
    train, train_labels, test, test_labels = digits
    settings = dict(num_classes=10, epochs=5, batch_size=100, lr=1e-2, weight_decay=1e-6, seed=0)
    plain = linear_probe_cached(*digits, **settings)
    scale = torch.logspace(-4, 4, train.shape[1])
    assert scale.numel() == 64
    moved = linear_probe_cached(
        train * scale + 3 * scale, train_labels, test * scale + 3 * scale, test_labels, **settings
    )
    assert plain[0] > 85
    assert moved == pytest.approx(plain, abs=0.4)  # rounding may turn an image or two of 597


def digest(module):
    """Hash of all weights and buffers, BatchNorm's statistics among them."""
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(name.encode() + value.numpy().tobytes())
    return state.hexdigest()


def noisy(batch):
    """A view: the image with noise from the global generator."""
    return to_float(batch) + 0.1 * torch.randn(batch.shape)


def augmented(encoder, n=50, **changes):
    train, train_labels = images(n)
    test, test_labels = images(31, seed=1)
    settings = dict(num_classes=3, num_features=6, epochs=3, batch_size=16, lr=0.1, weight_decay=1e-6, seed=0) | changes
    views = settings.pop("views", noisy)
    with eval_mode(encoder):
        return linear_probe_augmented(encoder, views, to_float, train, train_labels, test, test_labels, **settings)


@pytest.fixture
def optimizers(monkeypatch):
    """Every Adam that is made."""
    made = []

    class Recorded(torch.optim.Adam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(evaluation.torch.optim, "Adam", Recorded)
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
    linear_probe_cached(*digits, num_classes=10, epochs=2, batch_size=600, lr=0.1, weight_decay=0, seed=0)
    with_views, cached = (o.param_groups[0]["lr"] for o in optimizers)
    assert with_views == 0.1
    assert cached == pytest.approx(0.1 * (1 + math.cos(math.pi * 3 / 4)) / 2)  # the last of its four steps


def test_probes_are_deterministic_and_seeded(optimizers, digits):
    def weights(probe, seed):
        probe(seed=seed)
        return optimizers[-1].param_groups[0]["params"][0].detach()

    settings = dict(num_classes=10, epochs=2, batch_size=100, lr=1e-2, weight_decay=0)
    for probe in (partial(augmented, backbone()), partial(linear_probe_cached, *digits, **settings)):
        first = weights(probe, 0)
        torch.randn(7)  # the global generator's state does not matter
        assert torch.equal(weights(probe, 0), first)
        assert not torch.equal(weights(probe, 1), first)


def test_every_step_has_its_own_order_and_views():
    seen = []

    def views(batch):
        seen.append((batch.clone(), torch.rand(1).item()))
        return to_float(batch)

    augmented(backbone(), n=8, epochs=3, batch_size=4, views=views)
    assert len({draw for _, draw in seen}) == len(seen) == 6
    epochs = [torch.cat([seen[i][0], seen[i + 1][0]]) for i in (0, 2, 4)]
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    for epoch in epochs:  # each image once
        assert torch.equal(epoch.float().mean((1, 2, 3)).sort().values, epochs[0].float().mean((1, 2, 3)).sort().values)
    assert len(epochs[0].flatten(1).unique(dim=0)) == 8


def test_on_step_hears_of_every_step():
    """With a learning rate of 0 the classifier stays at zero, whose loss is log C for every batch, the last one too."""
    heard = []
    augmented(backbone(), n=50, lr=0.0, epochs=2, on_step=lambda f: heard.append((f.step, f.steps, float(f.loss))))
    assert heard == [(step, 8, pytest.approx(math.log(3), rel=1e-6)) for step in range(1, 9)]


@pytest.mark.parametrize("at", [1, 4, 6, 12])
def test_a_probe_that_was_stopped_goes_on_bit_for_bit(optimizers, digits, at):
    """In the middle of an epoch, at its end and after the last step."""
    settings = dict(num_classes=10, epochs=3, batch_size=300, lr=1e-2, weight_decay=1e-6, seed=0)
    for probe in (partial(augmented, backbone()), partial(linear_probe_cached, *digits, **settings)):
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


def test_step_seed_keeps_seeds_streams_and_steps_apart():
    seeds = [step_seed(s, stream, t) for s in range(20) for stream in ("order", "step") for t in range(500)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len({s % 2**32 for s in seeds}) == len(seeds)  # torch's CPU generator reads the low 32 bits
    assert step_seed(0, "step", 1) == 1578201625287471526  # on every platform, in every version
