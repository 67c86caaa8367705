"""kNN against a double loop in float64 and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from moco.evaluation import knn as knn_module
from moco.evaluation.features import Labelled
from moco.evaluation.knn import knn, knn_at


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slow_knn(bank, queries, k, temperature, num_classes):
    """The formula of the paper by a double loop in float64: top-1 and top-5 in percent."""
    hits1 = hits5 = 0
    for query, label in zip(queries.x.double(), queries.labels.tolist()):
        similarity = [float(query @ row / query.norm() / row.norm()) for row in bank.x.double()]
        nearest = sorted(range(len(bank.x)), key=lambda j: -similarity[j])[:k]
        votes = [0.0] * num_classes
        for j in nearest:
            votes[int(bank.labels[j])] += math.exp((similarity[j] - similarity[nearest[0]]) / temperature)
        order = sorted(range(num_classes), key=lambda c: -votes[c])
        hits1 += label == order[0]
        hits5 += label in order[:5]
    return 100 * hits1 / len(queries.x), 100 * hits5 / len(queries.x)


def random_data(n=83, q=37, dim=6, num_classes=12):
    """Features of any length that say something, not all, about the label."""
    centres = torch.randn(num_classes, dim)
    labels = torch.randint(num_classes, (n + q,))
    x = (centres[labels] + torch.randn(n + q, dim)) * torch.rand(n + q, 1).add(0.1)
    return Labelled(x[:n], labels[:n]), Labelled(x[n:], labels[n:])


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("k, blocks", [(1, (1000, 1000)), (10, (10, 16)), (40, (7, 30)), (83, (36, 82))])
def test_knn_equals_the_slow_loop(k, blocks, temperature):
    data = random_data()
    want = slow_knn(*data, k, temperature, 12)
    assert 10 < want[0] < 90 and want[0] < want[1] < 100  # neither guessing nor trivial
    got = knn(*data, k=k, temperature=temperature, num_classes=12, query_block=blocks[0], bank_block=blocks[1])
    assert got == pytest.approx(want)


def test_several_k_from_one_search_equal_a_search_for_each(monkeypatch):
    data = random_data()
    searches, search = [], knn_module.neighbours
    monkeypatch.setattr(
        knn_module, "neighbours", lambda *args, **more: searches.append(args[2]) or search(*args, **more)
    )
    got = knn_at(*data, (10, 1, 83, 40), temperature=1.0, num_classes=12, query_block=10, bank_block=16)
    assert searches == [83] and [*got] == [10, 1, 83, 40]
    for k, found in got.items():
        assert found == pytest.approx(slow_knn(*data, k, 1.0, 12))
    assert len({*got.values()}) >= 3


class Peak(TorchDispatchMode):
    """Notes the largest results, in bytes; views are no results."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.bytes = max(self.bytes, tensor.nbytes)
        return out


def test_knn_holds_few_bytes_for_a_query_and_neighbour():
    bank, queries = random_data(n=60, q=500)
    with Peak() as peak:
        knn(bank, queries, k=50, temperature=0.1, num_classes=12, query_block=20, bank_block=30)
    # Of the two tensors over all queries one is float32 and one int32, and blocks are smaller than either.
    assert peak.bytes == 500 * 50 * 4


def test_knn_does_not_change_the_features():
    bank, queries = random_data()
    before = bank.x.clone(), queries.x.clone()
    knn(bank, queries, k=5, temperature=0.1, num_classes=12)
    assert torch.equal(bank.x, before[0]) and torch.equal(queries.x, before[1])


def circle(*degrees):
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize("temperature, winner", [(1e6, 0), (1e-6, 1), (1e-30, 1)])
def test_knn_between_a_vote_and_the_nearest(temperature, winner):
    """One neighbour of class 1 at 1 degree, two of class 0 further away: a vote says 0, the nearest says 1."""
    bank, label = Labelled(circle(1.0, 20.0, -25.0, 180.0), torch.tensor([1, 0, 0, 1])), torch.tensor([winner])
    settings = dict(k=3, temperature=temperature, num_classes=2)
    assert knn(bank, Labelled(circle(0.0), label), **settings).top1 == 100
    assert knn(bank, Labelled(circle(0.0), 1 - label), **settings).top1 == 0


def test_knn_weights_are_exp_of_similarity_over_temperature():
    """Two at 60 degrees against one at 0 degrees: they balance where 2 exp(0.5 / t) = exp(1 / t), t = 0.5 / log 2."""
    bank, balance = Labelled(circle(0.0, 60.0, -60.0), torch.tensor([0, 1, 1])), 0.5 / math.log(2)
    for temperature, winner in ((balance * 0.999, 0), (balance * 1.001, 1)):
        query = Labelled(circle(0.0), torch.tensor([winner]))
        assert knn(bank, query, k=3, temperature=temperature, num_classes=2).top1 == 100


def test_nearest_neighbour_of_the_bank_in_itself_is_itself():
    bank, _ = random_data()
    assert knn(bank, bank, k=1, temperature=0.1, num_classes=12) == (100.0, 100.0)


def test_knn_top5_of_few_classes_is_of_them_all_and_counts_classes_without_a_vote_last():
    bank = Labelled(torch.eye(8), torch.arange(8))
    settings = dict(k=2, temperature=0.1, num_classes=8, query_block=3)
    # Query: nearest to row 7, then to row 6; then come the classes without a vote, 0 to 5 in that order.
    query = F.one_hot(torch.tensor(7), 8).float() + 0.5 * F.one_hot(torch.tensor(6), 8)
    top = {7: (100, 100), 6: (0, 100), 0: (0, 100), 2: (0, 100), 3: (0, 0), 5: (0, 0)}
    for label, accuracy in top.items():
        assert knn(bank, Labelled(query.view(1, 8), torch.tensor([label])), **settings) == accuracy
    few = Labelled(torch.eye(3), torch.arange(3)), Labelled(torch.eye(3), torch.tensor([1, 2, 0]))
    assert knn(*few, k=1, temperature=1, num_classes=3) == (0.0, 100.0)


def test_equal_votes_go_to_the_lower_class():
    bank, query = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    for bank_labels in (torch.tensor([2, 1]), torch.tensor([1, 2])):
        found = knn(
            Labelled(bank, bank_labels), Labelled(query, torch.tensor([1])), k=2, temperature=0.1, num_classes=3
        )
        assert found.top1 == 100
