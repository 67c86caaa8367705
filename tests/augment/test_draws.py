"""What is drawn stays what it was, and views can be computed in any pieces of a batch."""

import pytest
import torch
from draws import random_images
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.augment import Augment, Draws

NEUTRAL = dict(mean=[0.0] * 3, std=[1.0] * 3)
OFF = dict(jitter=(0.0,) * 4, gray=0.0)
AUGMENTATIONS = {
    "crops": OFF,
    "jitter": dict(gray=0.0),
    "gray": OFF | dict(gray=0.5),
    "blur": OFF | dict(blur=0.5),
    "solarize": OFF | dict(solarize=0.5),
    "all": dict(crop=(0.08, 1.0), jitter=(0.8, 0.4, 0.2, 0.1), jitter_p=0.5, blur=0.5, solarize=0.2),
}
BATCHES = [(5, 16, 16, None), (128, 16, 16, 24), (300, 20, 28, 16)]  # (n, height, width, size of the views)
# Of each batch a sum over its views and the random number that follows them, as they were when views were first trained on.
FROZEN = {
    "crops": [(1.439, 0.12429100275039673), (-99.5244, 0.9595881104469299), (38.6828, 0.02972424030303955)],
    "jitter": [(8.0787, 0.36835789680480957), (-80.2837, 0.873647928237915), (63.7395, 0.3232685327529907)],
    "gray": [(5.203, 0.5998914241790771), (9.6792, 0.9450641870498657), (-34.7354, 0.6024574041366577)],
    "blur": [(3.8432, 0.35722702741622925), (-75.4922, 0.5538959503173828), (-16.9872, 0.9600098133087158)],
    "solarize": [(2.8289, 0.5998914241790771), (80.6897, 0.9450641870498657), (-63.6827, 0.6024574041366577)],
    "all": [(3.2902, 0.9226363897323608), (25.8407, 0.236544668674469), (-0.8701, 0.03226208686828613)],
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_seed_gives_the_views_that_it_always_gave(name: str) -> None:
    """A sum with weights that no other draws would give; processors may round differently, hence the tolerance."""
    for (n, height, width, size), (total, after) in zip(BATCHES, FROZEN[name], strict=True):
        images = torch.randint(
            256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        torch.manual_seed(7)
        views = Augment(**NEUTRAL, **AUGMENTATIONS[name], size=size)(images).contiguous().double().flatten()
        assert float(torch.rand(())) == after
        assert float(views @ torch.arange(len(views)).double().sin()) == pytest.approx(total, abs=2e-3)


def pieces(n: int) -> st.SearchStrategy[int]:
    """A number of equal pieces of n rows."""
    return st.sampled_from([w for w in range(1, n + 1) if n % w == 0])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_batch_in_pieces_is_the_batch(data: st.DataObject) -> None:
    """Bit for bit, in equal slices and in any order."""
    n = data.draw(st.integers(1, 300))
    w = data.draw(pieces(n))
    make = Augment(**NEUTRAL, **AUGMENTATIONS[data.draw(st.sampled_from(sorted(AUGMENTATIONS)))], size=20)
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    images = random_images(n, 16, 18)
    draws = make.draw(n, (16, 18), images.device)
    whole = make.apply(images, draws)
    rows = [slice(r * n // w, (r + 1) * n // w) for r in range(w)]
    assert torch.equal(whole, torch.cat([make.apply(images[row], draws[row]) for row in rows]))
    order = torch.randperm(n)
    assert torch.equal(whole[order], make.apply(images[order], draws[order]))


@pytest.mark.parametrize("side, size", [(64, 96), (224, 224)])
def test_large_views_in_pieces_are_the_batch(side: int, size: int) -> None:
    make = Augment(**NEUTRAL, **AUGMENTATIONS["all"], size=size)
    images = random_images(6, side, side)
    draws = make.draw(6, (side, side), images.device)
    whole = make.apply(images, draws)
    for n in (1, 2, 3):
        assert torch.equal(whole, torch.cat([make.apply(images[i : i + n], draws[i : i + n]) for i in range(0, 6, n)]))


def test_views_grow_with_the_training_and_are_drawn_alike() -> None:
    make = Augment(**NEUTRAL, **AUGMENTATIONS["all"], size=24, smaller=[(12, 0.25), (16, 0.5)])
    images = random_images(5)
    draws = make.draw(5, (32, 32), images.device)
    for at, size in [(0.0, 12), (0.249, 12), (0.25, 16), (0.4999, 16), (0.5, 24), (1.0, 24)]:
        alone = Augment(**NEUTRAL, **AUGMENTATIONS["all"], size=size)
        assert torch.equal(make.apply(images, draws, at), alone.apply(images, draws))
    assert make(images).shape[-1] == 24  # where no training is going on


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_what_is_drawn_and_then_computed(name: str) -> None:
    images, make = random_images(300), Augment(**NEUTRAL, **AUGMENTATIONS[name])
    torch.manual_seed(5)
    views = make(images)
    torch.manual_seed(5)
    draws = make.draw(300, (32, 32), images.device)
    state = torch.get_rng_state()
    assert torch.equal(views, make.apply(images, draws)) and torch.equal(state, torch.get_rng_state())
    assert len(draws) == 300 and len(draws[10:30]) == 20 and isinstance(draws[10:30], Draws)
