"""The batched views against torchvision's per-image transforms: each operation, and the distribution of what is drawn."""

import math
from collections import Counter

import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from moco.augment import views as augment
from moco.augment.views import (
    Augment,
    color_jitter,
    crop_boxes,
    crop_resize,
    gaussian_blur,
    luma,
    mix_,
    mix_weights,
    turn_hue,
)

CPU = torch.device("cpu")
NEUTRAL = dict(mean=[0.0] * 3, std=[1.0] * 3)
PLAIN = NEUTRAL | dict(crop=(1, 1), flip=0.0, jitter=(0.0,) * 4, jitter_p=0.0, gray=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Patches of scikit-learn's two photographs, at several scales, uint8 [28, 3, 32, 32]."""
    patches = []
    for photo in load_sample_images().images:
        image = torch.from_numpy(photo.copy()).permute(2, 0, 1)  # [3, 427, 640]
        for side in (60, 120, 200, 400):
            for left in range(0, 640 - side, 160):
                patches.append(TF.resized_crop(image, 20, left, side, side, [32, 32], antialias=True))
    return torch.stack(patches)


def random_images(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8)


def agrees_with_probability(hits: int, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(hits - n * p) < 4 * math.sqrt(n * p * (1 - p))


# Crops


@pytest.mark.parametrize("shape", [(32, 32), (20, 48)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 1.0), (0.7, 1.0)])
def test_boxes_are_drawn_as_torchvision_does(area, shape):
    n = 3000
    ours = torch.stack(crop_boxes(n, area, shape, CPU), 1).double()
    image = torch.zeros(1, *shape)
    get = transforms.RandomResizedCrop.get_params
    theirs = torch.tensor([get(image, list(area), [3 / 4, 4 / 3]) for _ in range(n)]).double()
    for what in (
        lambda top, left, h, w: h * w,
        lambda top, left, h, w: w / h,
        lambda top, left, h, w: top,
        lambda top, left, h, w: left,
        lambda top, left, h, w: top + h,
        lambda top, left, h, w: left + w,
    ):
        assert stats.ks_2samp(what(*ours.T).numpy(), what(*theirs.T).numpy()).pvalue > 1e-3


def test_boxes_are_whole_pixels_inside_the_image():
    top, left, height, width = crop_boxes(5000, (0.08, 1.0), (24, 40), CPU)
    for value in (top, left, height, width):
        assert torch.equal(value, value.round())
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 24 and (left + width).max() <= 40
    assert (top + height).max() == 24 and (left + width).max() == 40 and top.min() == left.min() == 0


@pytest.mark.parametrize("shape", [(10, 60), (60, 10)])
def test_where_no_box_fits_the_centre_is_taken_as_torchvision_does(shape):
    theirs = transforms.RandomResizedCrop.get_params(torch.zeros(1, *shape), [1.0, 1.0], [3 / 4, 4 / 3])
    ours = torch.stack(crop_boxes(50, (1.0, 1.0), shape, CPU), 1)
    assert torch.equal(ours, torch.tensor(theirs).float().expand(50, 4))


@pytest.mark.parametrize("size", [8, 20, 32, 50])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_crop_and_resize_is_torchvisions_with_antialias(size, shape):
    images = random_images(40, *shape)
    boxes = crop_boxes(40, (0.05, 1.0), shape, CPU)
    ours = crop_resize(images, boxes, size, flip=0.0)
    for image, view, *box in zip(images, ours, *(b.int().tolist() for b in boxes)):
        expected = TF.resized_crop(image.float(), *box, [size, size], antialias=True) / 255
        torch.testing.assert_close(view, expected, atol=2e-6, rtol=1e-5)


def test_a_one_pixel_box_gives_that_pixel():
    image = random_images(1)
    view = crop_resize(image, tuple(torch.tensor([v]) for v in (5.0, 9.0, 1.0, 1.0)), 4, flip=0.0)
    torch.testing.assert_close(view, (image[:, :, 5:6, 9:10] / 255).expand(1, 3, 4, 4))


def test_flip():
    images = random_images(4000, 2, 2)
    boxes = tuple(torch.full((4000,), v) for v in (0.0, 0.0, 2.0, 2.0))
    upright = images / 255
    torch.testing.assert_close(crop_resize(images, boxes, 2, flip=1.0), upright.flip(3))
    some = crop_resize(images, boxes, 2, flip=0.3)
    flipped = (some - upright.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (some - upright).abs().amax((1, 2, 3)) < 1e-5
    assert bool((flipped | kept).all())
    assert agrees_with_probability(int((flipped & ~kept).sum()), int((flipped ^ kept).sum()), 0.3)


# Colours


def test_luma_is_torchvisions_grayscale():
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(luma(x), TF.rgb_to_grayscale(x), atol=2e-4, rtol=0)  # its first weight is 0.2989


@pytest.mark.parametrize(
    "operation, function", [(0, TF.adjust_brightness), (1, TF.adjust_contrast), (2, TF.adjust_saturation)]
)
def test_mix_is_torchvisions_adjustment(operation, function):
    x, factors = torch.rand(12, 3, 16, 16), torch.linspace(0, 2.2, 12)
    ours = mix_(x.clone(), *mix_weights(torch.full((12, 1, 1, 1), operation), factors.view(-1, 1, 1, 1)))
    theirs = torch.stack([function(image, float(f)) for image, f in zip(x, factors)])
    torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=0)


def test_hue_is_torchvisions(photos):
    x, shifts = photos[:21] / 255, torch.linspace(-0.5, 0.5, 21)
    ours = turn_hue(x, shifts.view(-1, 1, 1, 1))
    theirs = torch.stack([TF.adjust_hue(image, float(s)) for image, s in zip(x, shifts)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_hue_of_gray_black_and_pure_colours():
    gray = torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    torch.testing.assert_close(turn_hue(gray, torch.full((1, 1, 1, 1), 0.2)), gray)
    colours = torch.eye(3).view(1, 3, 1, 3)  # red, green, blue: a third of a turn makes each the next
    torch.testing.assert_close(
        turn_hue(colours, torch.full((1, 1, 1, 1), 1 / 3)), colours.roll(1, 1), atol=1e-6, rtol=0
    )


@pytest.fixture
def recorded(monkeypatch):
    """recorded(x, strength, p) -> the jittered images, and for each image its operations [(name, factor), ...] in turn."""
    calls = []

    def note_mix(x, own, gray, mean):
        calls.append(((2 * (gray != 0) + (mean != 0)).flatten(), own.flatten()))
        return mix_(x, own, gray, mean)

    def note_hue(x, shift):
        calls.append((torch.full((len(x),), 3), shift.flatten()))
        return turn_hue(x, shift)

    def run(x, strength, p):
        calls.clear()
        monkeypatch.setattr(augment, "mix_", note_mix)
        monkeypatch.setattr(augment, "turn_hue", note_hue)
        jittered = color_jitter(x, strength, p)
        kinds = torch.stack([kind for kind, _ in calls], 1).tolist()
        factors = torch.stack([factor for _, factor in calls], 1).tolist()
        neutral = {0: 1, 1: 1, 2: 1, 3: 0}
        return jittered, [[(k, f) for k, f in zip(*row) if f != neutral[k]] for row in zip(kinds, factors)]

    return run


def test_jitter_draws_factors_and_order_as_torchvision_does(recorded):
    n, strength = 6000, (0.4, 0.5, 1.3, 0.1)
    _, sequences = recorded(torch.rand(n, 3, 1, 1), strength, 1.0)
    orders = Counter(tuple(kind for kind, _ in sequence) for sequence in sequences if len(sequence) == 4)
    assert len(orders) == math.factorial(4) and sum(orders.values()) > n - 5  # a factor of 1 in 10^7 is no operation
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3
    ranges = [(0.6, 1.4), (0.5, 1.5), (0.0, 2.3), (-0.1, 0.1)]
    for kind, (low, high) in enumerate(ranges):
        drawn = [factor for sequence in sequences for k, factor in sequence if k == kind]
        assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_jitter_spares_the_others(recorded):
    x = torch.rand(4000, 3, 2, 2)
    jittered, sequences = recorded(x, (0.4, 0.4, 0.4, 0.1), 0.8)
    spared = torch.tensor([not sequence for sequence in sequences])
    assert agrees_with_probability(int(spared.sum()), 4000, 0.2)
    torch.testing.assert_close(jittered[spared], x[spared], atol=1e-6, rtol=0)


def test_jitter_without_hue_never_turns_it(recorded):
    _, sequences = recorded(torch.rand(200, 3, 2, 2), (0.4, 0.4, 0.4, 0.0), 1.0)
    assert all(sorted(kind for kind, _ in sequence) == [0, 1, 2] for sequence in sequences)


def test_jitter_is_torchvisions_operations_in_that_order(recorded, photos):
    x = photos / 255
    jittered, sequences = recorded(x, (0.8, 0.8, 0.8, 0.4), 0.9)
    functions = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for image, ours, sequence in zip(x, jittered, sequences):
        for kind, factor in sequence:
            image = functions[kind](image, factor)
        torch.testing.assert_close(ours, image, atol=1e-3, rtol=0)


# Gray, blur, solarisation


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


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(flip=1.5), r"augment.flip=1.5 is a probability: give a number from 0 to 1"),
        (dict(gray=-0.1), r"augment.gray=-0.1 is a probability"),
        (dict(crop=(0.0, 1.0)), r"augment.crop=\[0.0, 1.0\] must be"),
        (dict(crop=(0.5, 0.2)), r"augment.crop=\[0.5, 0.2\] must be"),
        (dict(crop=(0.5, 1.2)), r"augment.crop=\[0.5, 1.2\] must be"),
        (dict(blur_sigma=(2.0, 0.1)), r"augment.blur_sigma=\[2.0, 0.1\] must be"),
        (dict(jitter=(0.4, 0.4, 0.4, 0.6)), r"augment.jitter=\[0.4, 0.4, 0.4, 0.6\] must be"),
        (dict(jitter=(-0.1, 0.4, 0.4, 0.1)), r"augment.jitter=\[-0.1, 0.4, 0.4, 0.1\] must be"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Augment(**NEUTRAL, **settings)
