"""Whole views against torchvision's pipeline: gray, blur and solarisation, moments of many views, seeds."""

import pytest
import torch
from draws import agrees_with_probability, random_images
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from moco.augment import Augment
from moco.augment.blur import gaussian_blur

NEUTRAL = dict(mean=[0.0] * 3, std=[1.0] * 3)
PLAIN = NEUTRAL | dict(crop=(1, 1), flip=0.0, jitter=(0.0,) * 4, jitter_p=0.0, gray=0.0)


@pytest.mark.parametrize("side, kernel", [(32, 3), (64, 7), (96, 11), (8, 3)])
def test_blur_is_torchvisions(side, kernel):
    x = torch.rand(6, 3, side, side)
    torch.manual_seed(1)
    ours = gaussian_blur(x, (0.1, 2.0))
    torch.manual_seed(1)
    sigmas = torch.empty(6, 1).uniform_(0.1, 2.0).flatten().tolist()
    theirs = torch.stack([TF.gaussian_blur(image, [kernel, kernel], [s, s]) for image, s in zip(x, sigmas)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_solarisation_is_torchvisions(photos):
    view = Augment(**PLAIN | {"solarize": 1.0})(photos)
    torch.testing.assert_close(view, TF.solarize(photos / 255, 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("what", ["gray", "blur", "solarize"])
def test_each_has_its_probability(what):
    images = random_images(2000, 8, 8)
    always, view = (Augment(**PLAIN | {what: p, "blur_sigma": (1.0, 1.0)})(images) for p in (1.0, 0.3))
    near = lambda a, b: (a - b).abs().amax((1, 2, 3)) < 1e-5  # noqa: E731
    changed, kept = near(view, always), near(view, images / 255)
    assert bool((changed ^ kept).all())
    assert agrees_with_probability(int(changed.sum()), 2000, 0.3)


def test_gray_views_have_equal_channels(photos):
    view = Augment(**PLAIN | {"gray": 1.0})(photos)
    torch.testing.assert_close(view, TF.rgb_to_grayscale(photos / 255, 3), atol=2e-4, rtol=0)


# Whole views


def measures(x: torch.Tensor) -> torch.Tensor:
    """Of each view in [0, 1]: channel means, contrast, saturation, sharpness. [N, 3, H, W] -> [N, 6]"""
    saturation = (x.amax(1) - x.amin(1)).mean((1, 2))
    sharpness = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
    return torch.cat([x.mean((2, 3)), torch.stack([x.std((1, 2, 3)), saturation, sharpness], 1)], 1).double()


def test_moments_of_many_views_are_those_of_torchvisions_pipeline(photos):
    n = 10_000
    index = torch.arange(n) % len(photos)
    # Without blur: torchvision's is slow.
    settings = dict(crop=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2, solarize=0.1)
    ours = measures(Augment(**NEUTRAL, **settings)(photos[index]))
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomSolarize(128, p=0.1),
            transforms.ToTensor(),
        ]
    )
    pictures = [Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in photos]
    theirs = measures(torch.stack([pipeline(pictures[i]) for i in index[: n // 3].tolist()]))
    error = (ours.var(0) / n + theirs.var(0) / (n // 3)).sqrt()
    # PIL rounds to whole grey levels, and towards 0, after each operation: up to half a level of 255 on the way.
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() < 4 * error + 0.5 / 255).all())
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.06, atol=0)


def test_clean_is_the_normalised_image(photos):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    clean = Augment(mean=mean, std=std).clean(photos)
    torch.testing.assert_close(clean, transforms.Normalize(mean, std)(photos / 255), atol=1e-5, rtol=0)
    assert clean.dtype == torch.float32 and clean.is_contiguous(memory_format=torch.channels_last)


def test_views_are_normalised_in_channels_last(photos):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    plain = Augment(**PLAIN | dict(mean=mean, std=std))
    torch.testing.assert_close(plain(photos), plain.clean(photos), atol=1e-5, rtol=0)
    view = Augment(mean=mean, std=std, size=24, blur=0.5, solarize=0.2)(photos)
    assert view.shape == (len(photos), 3, 24, 24) and view.dtype == torch.float32
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_each_image_gets_its_own_view_in_its_own_place():
    levels = torch.arange(300) % 256
    images = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)  # of one colour: no crop changes it
    view = Augment(**PLAIN | dict(crop=(0.1, 1.0), flip=0.5))(images)
    torch.testing.assert_close(view, images / 255, atol=1e-6, rtol=0)
    same = random_images(1).expand(300, -1, -1, -1)  # more than one chunk of one image
    views = Augment(**NEUTRAL)(same).flatten(1)
    assert len(torch.unique(views, dim=0)) == 300


def test_views_follow_the_seed(photos):
    views = Augment(**NEUTRAL, blur=0.5, solarize=0.2)
    made = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        made += [views(photos), views(photos)]
    assert torch.equal(made[0], made[2]) and torch.equal(made[1], made[3])
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[4])


SETTINGS = [
    dict(),
    dict(size=24, blur=0.5, solarize=0.2, gray=0.5),
    dict(crop=(0.5, 1.0), flip=0.0, jitter=(0.0,) * 4, gray=0.0, blur=1.0),
    dict(jitter=(0.8, 0.0, 0.4, 0.0), jitter_p=0.5),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_to_keep_what_was_drawn_changes_no_bit_and_no_random_number(settings):
    images, views = random_images(300), Augment(**NEUTRAL, **settings)  # more than one chunk
    torch.manual_seed(5)
    plain, after = views(images), torch.rand(3)
    torch.manual_seed(5)
    drawn, draws = views.drawn(images)
    assert torch.equal(plain, drawn) and torch.equal(after, torch.rand(3)) and len(draws) == len(images)


def test_what_is_said_to_be_drawn_makes_the_view(photos):
    views = Augment(**NEUTRAL, size=24, blur=0.5, solarize=0.5, gray=0.5, jitter=(0.4, 0.4, 0.0, 0.1), jitter_p=0.7)
    made, draws = views.drawn(photos.repeat(6, 1, 1, 1))
    alike = 0
    for photo, view, draw in zip(photos.repeat(6, 1, 1, 1), made, draws):
        top, left, height, width = draw.crop
        x = TF.resized_crop(photo.float(), top, left, height, width, [24, 24], antialias=True) / 255
        x = x.flip(2) if draw.flip else x
        if draw.jitter:
            assert 0.6 <= min(draw.jitter[:2]) <= max(draw.jitter[:2]) <= 1.4 and abs(draw.jitter[3]) <= 0.1
            continue  # in an order of its own, which is not told
        x = TF.rgb_to_grayscale(x, 3) if draw.gray else x
        x = TF.gaussian_blur(x, [3, 3], [draw.blur] * 2) if draw.blur else x
        x = torch.minimum(x, 1 - x) if draw.solarize else x
        torch.testing.assert_close(view, x, atol=1e-3, rtol=0)
        alike += 1
    assert 10 < alike < len(draws)
    for found in ([draw.flip for draw in draws], [draw.gray for draw in draws], [draw.solarize for draw in draws]):
        assert agrees_with_probability(sum(found), len(draws), 0.5)
    assert agrees_with_probability(sum(draw.jitter is not None for draw in draws), len(draws), 0.7)
    assert agrees_with_probability(sum(draw.blur is not None for draw in draws), len(draws), 0.5)
    assert all(draw.blur is None and draw.jitter is None for draw in Augment(**PLAIN).drawn(photos)[1])
