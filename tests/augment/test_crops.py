"""Batched crops against torchvision's RandomResizedCrop: how boxes are drawn, and what is cut out."""

import pytest
import torch
from draws import agrees_with_probability, random_images
from scipy import stats
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from moco.augment.crops import Boxes, crop_boxes, crop_resize

CPU = torch.device("cpu")


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
    view = crop_resize(image, Boxes(*torch.tensor([[5.0], [9.0], [1.0], [1.0]])), 4, flip=0.0)
    torch.testing.assert_close(view, (image[:, :, 5:6, 9:10] / 255).expand(1, 3, 4, 4))


def test_flip():
    images = random_images(4000, 2, 2)
    boxes = Boxes(*(torch.full((4000,), v) for v in (0.0, 0.0, 2.0, 2.0)))
    upright = images / 255
    torch.testing.assert_close(crop_resize(images, boxes, 2, flip=1.0), upright.flip(3))
    some = crop_resize(images, boxes, 2, flip=0.3)
    flipped = (some - upright.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (some - upright).abs().amax((1, 2, 3)) < 1e-5
    assert bool((flipped | kept).all())
    assert agrees_with_probability(int((flipped & ~kept).sum()), int((flipped ^ kept).sum()), 0.3)
