"""Weighted k-nearest-neighbour classification."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.accuracy import Accuracy, ranks, shares
from moco.evaluation.features import Labelled
from moco.ranks import collect, own

QUERY_BLOCK, BANK_BLOCK = 1000, 50_000  # rows whose similarities are held at a time; they affect only speed and memory


def knn(
    bank: Labelled,
    queries: Labelled,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> Accuracy:
    """Accuracy of weighted k-nearest-neighbour classification, see `votes`. Each query takes 8 bytes for each of its k
    neighbours, and a bank of a million rows of 512 dimensions half a GB in addition to its own memory. Of several processes
    each classifies a share of the queries."""
    blocks = {"query_block": query_block, "bank_block": bank_block}
    return knn_at(bank, queries, (k,), temperature=temperature, num_classes=num_classes, **blocks)[k]


def knn_at(
    bank: Labelled,
    queries: Labelled,
    ks: Sequence[int],
    *,
    temperature: float,
    num_classes: int,
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> dict[int, Accuracy]:
    """The same for several k, from one search for the largest."""
    n, k = len(queries.labels), max(ks)
    mine = own(n, query_block)
    voters, labels = bank.labels.to(bank.x.device), queries.labels[mine].cpu()
    nearest = neighbours(bank.x, queries.x[mine], k, query_block=query_block, bank_block=bank_block)
    found: dict[int, list[Tensor]] = {one: [labels.new_empty(0, dtype=torch.int64)] for one in ks}
    for similarity, rows, label in zip(*(torch.split(x, query_block) for x in (*nearest, labels))):
        if len(ks) > 1:
            similarity, order = similarity.sort(1, descending=True)
            rows = rows.gather(1, order)
        for one in ks:
            scores = _counted(voters, similarity[:, :one], rows[:, :one], temperature, num_classes)
            found[one].append(ranks(scores, label))
    whole = {one: collect(torch.cat(parts), n, query_block) for one, parts in found.items()}
    return {one: Accuracy(*shares(ranking, (1, 5))) for one, ranking in whole.items()}


@torch.no_grad()
def votes(
    bank: Labelled,
    queries: Tensor,
    *,
    k: int,
    temperature: float,
    num_classes: int,
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> Iterator[Tensor]:
    """The votes for each class of weighted k-nearest-neighbour classification (Wu et al., arXiv 1805.01978, section 3.4).

    The k rows of the bank with the highest cosine similarity s vote for their labels with weight exp(s / temperature). As
    the temperature goes to infinity all votes become equal; as it goes to 0 the nearest row decides. Of classes with equal
    votes the lower comes first; classes without a vote come last.

    Args:
        bank: features [N, D] of any length, on any device, with labels in [0, num_classes).
        queries: features [Q, D].
        k: from 1 to N.
        temperature: above 0.

    Yields:
        float64 [up to query_block, C] on the CPU, for the queries in order.
    """
    voters = bank.labels.to(bank.x.device)
    nearest = neighbours(bank.x, queries, k, query_block=query_block, bank_block=bank_block)
    for similarity, rows in zip(*(torch.split(x, query_block) for x in nearest)):
        yield _counted(voters, similarity, rows, temperature, num_classes)


def _counted(voters: Tensor, similarity: Tensor, rows: Tensor, temperature: float, num_classes: int) -> Tensor:
    """The votes of these rows of the bank, with their similarities, [block, k] each -> float64 [block, C].

    They are counted on the CPU, where scatter_add_ adds in a fixed order and float64 is available.

    Args:
        voters: the labels of the bank, int [N].
    """
    labels = voters[rows.long()].cpu().long()  # [block, k]
    similarity = similarity.cpu().double()  # [block, k]
    # Weights are divided by the largest, which changes no comparison and keeps exp finite at small temperatures.
    weights = ((similarity - similarity.amax(1, keepdim=True)) / temperature).exp()  # [block, k]
    return weights.new_zeros(len(rows), num_classes).scatter_add_(1, labels, weights)  # [block, C]


@torch.no_grad()
def neighbours(
    bank: Tensor, queries: Tensor, k: int, *, query_block: int = QUERY_BLOCK, bank_block: int = BANK_BLOCK
) -> tuple[Tensor, Tensor]:
    """Cosine similarity and bank row of each query's k nearest, in no order: float32 [Q, k] and int32 [Q, k]."""
    assert len(bank) < 2**31
    query_block, bank_block = max(1, min(query_block, len(queries))), min(bank_block, len(bank))
    best = queries.new_full((len(queries), k), -torch.inf, dtype=torch.float32)  # [Q, k]
    rows = torch.zeros_like(best, dtype=torch.int32)  # [Q, k]
    # All products share one buffer: allocating the pages of a new one each time takes a seventh of the time on a CPU.
    space = best.new_empty(query_block * bank_block)
    for start in range(0, len(bank), bank_block):
        part = F.normalize(bank[start : start + bank_block].float(), dim=1)  # [P, D]
        for query, best_so_far, rows_so_far in zip(*(torch.split(x, query_block) for x in (queries, best, rows))):
            query = F.normalize(query.float(), dim=1)  # [block, D]
            out = space[: len(query) * len(part)].view(len(query), len(part))
            new, index = torch.mm(query, part.T, out=out).topk(min(k, len(part)), sorted=False)
            merged, kept = torch.cat([best_so_far, new], 1).topk(k, sorted=False)
            best_so_far.copy_(merged)
            rows_so_far.copy_(torch.cat([rows_so_far, (index + start).int()], 1).gather(1, kept))
    return best, rows
