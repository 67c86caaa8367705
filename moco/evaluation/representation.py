"""What representations are like, measured without labels: how many directions they span, how they lie on the sphere."""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.data.pixels import AnyImages
from moco.evaluation.features import features
from moco.seeding import step_seed

ROWS = 25_600  # of which RankMe is taken, as many as its authors take
PAIRED = 2_000  # of which uniformity takes all pairs
ALIGNED = 500  # images of which alignment takes two views: one batch more for each view
EPSILON = 1e-7  # of eq. 2 of RankMe, for float32
BLOCK = 5_000  # rows that are held in float64 at a time


@torch.no_grad()
def described(h: Tensor, views: tuple[Tensor, Tensor]) -> dict[str, float]:
    """RankMe, alignment and uniformity of one kind of features, by these names.

    Args:
        h: features of images [N, D].
        views: features [M, D] of the same M images in two random views.
    """
    return {
        "rankme": rank_me(h[spaced(len(h), ROWS)]),
        "alignment": alignment(*views),
        "uniformity": uniformity(h[spaced(len(h), PAIRED)]),
    }


@torch.no_grad()
def two_views(
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    images: AnyImages,
    views: Callable[..., Tensor],
    device: torch.device,
) -> list[tuple[Tensor, ...]]:
    """What `encode` gives for two random views of some evenly spaced images, for each view as moco.evaluation.features has it.

    The images and the random numbers are the same for every run of a data set and at every epoch, so that what is compared is
    the networks. Torch's generators go on afterwards as if nothing had been drawn.
    """
    some = images[spaced(len(images), ALIGNED)]
    found = []
    for view in range(2):
        with _generators(step_seed(0, "alignment", view), device):  # one batch, so one rank draws for all images
            found.append(features(encode, some, views, batch_size=len(some)))
    return found


def rank_me(z: Tensor) -> float:
    """RankMe of features [N, D]: the exponential of the entropy of their singular values over the sum of these.

    From 1, all features in one direction, to min(N, D); 0 where all features are 0 (arXiv 2210.02885, eq. 1 and 2).

    The features are not centred and keep their lengths, as in the paper. Singular values are the roots of the eigenvalues of
    the products of the columns, summed in float64: a singular value is then off by 1e-8 of the largest, and float32 features
    are themselves known to 1e-7 of it.
    """
    z = z if z.shape[0] >= z.shape[1] else z.T
    gram = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64, device=_precise(z[:0]).device)
    for block in torch.split(z, BLOCK):
        block = _precise(block)
        gram += block.T @ block  # [D, D]
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()  # [D]
    if not bool(sigma.any()):
        return 0.0
    p = sigma / sigma.sum() + EPSILON
    return float(torch.exp(-(p * p.log()).sum()))


def alignment(x: Tensor, y: Tensor) -> float:
    """The mean squared distance of the features of an image's two views, [N, D] each, at unit length.

    From 0 to 4, lower is closer (Wang and Isola, arXiv 2005.10242, section 4.1, alpha = 2).
    """
    x, y = (F.normalize(_precise(z), dim=1) for z in (x, y))
    return float((x - y).square().sum(1).mean())


def uniformity(x: Tensor) -> float:
    """The logarithm of the mean of exp(-2 d^2) over all pairs of features [N, D], d being their distance at unit length.

    From -8 to 0, lower is more evenly spread (Wang and Isola, arXiv 2005.10242, section 4.1, t = 2). 0 where there is no pair.
    """
    if len(x) < 2:
        return 0.0
    x = F.normalize(_precise(x), dim=1)
    potential = (4 * (x @ x.T) - 4).exp()  # [N, N], as d^2 = 2 - 2 cos
    pairs = len(x) * (len(x) - 1)
    return float(((potential.sum() - potential.diagonal().sum()) / pairs).log())


def spaced(n: int, most: int) -> Tensor:
    """Evenly spaced rows of n, at most so many, int64 [min(n, most)]: as many of each class, where they come by class."""
    taken = min(n, most)
    return torch.arange(taken, device="cpu") * n // max(taken, 1)


def _precise(x: Tensor) -> Tensor:
    """The same in float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


@contextlib.contextmanager
def _generators(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators on this seed; afterwards where they were (but for MPS, whose is seeded anew at each step)."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
