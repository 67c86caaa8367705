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
    x, sigmas = torch.rand(6, 3, side, side), torch.empty(6).uniform_(0.1, 2.0)
    ours = gaussian_blur(x, sigmas)
    theirs = torch.stack([TF.gaussian_blur(image, [kernel, kernel], [s, s]) for image, s in zip(x, sigmas.tolist())])
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


def test_what_is_drawn_makes_the_view(photos):
    views = Augment(**NEUTRAL, size=24, blur=0.5, solarize=0.5, gray=0.5, jitter=(0.4, 0.4, 0.0, 0.1), jitter_p=0.7)
    images = photos.repeat(6, 1, 1, 1)
    n, draws = len(images), views.draw(len(images), (32, 32), images.device)
    jitter, blur = draws.jitter, draws.blur
    for i, (x, view) in enumerate(zip(images, views.apply(images, draws))):
        top, left, height, width = draws.boxes[i].int().tolist()
        x = TF.resized_crop(x.float(), top, left, height, width, [24, 24], antialias=True) / 255
        x = x.flip(2) if draws.flip[i] else x
        if jitter.applied[i]:
            before = int(jitter.hue_turn[i])
            turns = [*jitter.order[i, :before].tolist(), 3, *jitter.order[i, before:].tolist()]
            for turn in turns:
                adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)[turn]
                x = adjust(x, float(jitter.factors[i, turn]))
        x = TF.rgb_to_grayscale(x, 3) if draws.gray[i] else x
        x = TF.gaussian_blur(x, [3, 3], [float(blur.sigma[i])] * 2) if blur.applied[i] else x
        x = torch.minimum(x, 1 - x) if draws.solarize[i] else x
        torch.testing.assert_close(view, x, atol=2e-3, rtol=0)
    for chosen in (draws.flip, draws.gray, draws.solarize, blur.applied):
        assert agrees_with_probability(int(chosen.sum()), n, 0.5)
    assert agrees_with_probability(int(jitter.applied.sum()), n, 0.7)
    factors = jitter.factors[jitter.applied]
    assert 0.6 <= factors[:, :2].min() <= factors[:, :2].max() <= 1.4 and factors[:, 3].abs().max() <= 0.1
    plain = Augment(**PLAIN).draw(n, (32, 32), images.device)
    assert plain.jitter is plain.gray is plain.blur is plain.solarize is None
