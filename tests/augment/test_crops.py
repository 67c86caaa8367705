"""Batched crops against torchvision's RandomResizedCrop: how boxes are drawn, and what is cut out."""

import pytest
import torch
from draws import boxes_are_torchvisions, random_images
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from moco.augment.crops import crop_boxes, crop_resize


def alike(n: int, height: int, width: int) -> torch.Tensor:
    """Of n images of one size the heights and widths, [2, n]."""
    return torch.tensor([[float(height)], [float(width)]]).expand(2, n)


@pytest.mark.parametrize("shape", [(32, 32), (20, 48)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 1.0), (0.7, 1.0)])
def test_boxes_are_drawn_as_torchvision_does(area, shape):
    assert boxes_are_torchvisions(crop_boxes(area, alike(3000, *shape)), area, *shape)


def test_boxes_are_whole_pixels_inside_the_image():
    top, left, height, width = crop_boxes((0.08, 1.0), alike(5000, 24, 40)).T
    for value in (top, left, height, width):
        assert torch.equal(value, value.round())
    assert top.min() >= 0 and left.min() >= 0 and (top + height).max() <= 24 and (left + width).max() <= 40
    assert (top + height).max() == 24 and (left + width).max() == 40 and top.min() == left.min() == 0


@pytest.mark.parametrize("shape", [(10, 60), (60, 10)])
def test_where_no_box_fits_the_centre_is_taken_as_torchvision_does(shape):
    theirs = transforms.RandomResizedCrop.get_params(torch.zeros(1, *shape), [1.0, 1.0], [3 / 4, 4 / 3])
    ours = crop_boxes((1.0, 1.0), alike(50, *shape))
    assert torch.equal(ours, torch.tensor(theirs).float().expand(50, 4))


@pytest.mark.parametrize("size", [8, 20, 32, 50])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_crop_and_resize_is_torchvisions_with_antialias(size, shape):
    images = random_images(40, *shape)
    boxes = crop_boxes((0.05, 1.0), alike(40, *shape))
    ours = crop_resize(images, boxes, None, size)
    for image, view, *box in zip(images, ours, *boxes.int().T.tolist()):
        expected = TF.resized_crop(image.float(), *box, [size, size], antialias=True) / 255
        torch.testing.assert_close(view, expected, atol=2e-6, rtol=1e-5)


def test_a_one_pixel_box_gives_that_pixel():
    image = random_images(1)
    view = crop_resize(image, torch.tensor([[5.0, 9.0, 1.0, 1.0]]), None, 4)
    torch.testing.assert_close(view, (image[:, :, 5:6, 9:10] / 255).expand(1, 3, 4, 4))


def test_flip():
    images = random_images(5, 2, 2)
    boxes, flip = torch.tensor([0.0, 0.0, 2.0, 2.0]).expand(5, 4), torch.tensor([True, False, False, True, False])
    x = images / 255
    torch.testing.assert_close(crop_resize(images, boxes, flip, 2), torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x))
