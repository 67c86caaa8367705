"""Images of several sizes, padded to one: each is cropped within its own size, and what pads it is never seen."""

import pytest
import torch
from draws import boxes_are_torchvisions, random_images
from torchvision import transforms
from torchvision.transforms.v2 import functional as TF

from moco.augment import Augment
from moco.augment.crops import crop_boxes
from moco.errors import UserError

NEUTRAL = dict(mean=[0.0] * 3, std=[1.0] * 3)
ALL = dict(crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur=0.5, solarize=0.2, size=20)
SIZES = torch.tensor([[24, 40], [40, 24], [31, 33], [40, 40], [9, 17]])
CPU = torch.device("cpu")


def padded(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n images of SIZES in turn, uint8 [n, 3, 40, 40] with noise beside them, and their sizes [n, 2]."""
    return random_images(n, 40, 40), SIZES.repeat(-(-n // len(SIZES)), 1)[:n]


def test_boxes_of_each_size_are_drawn_as_torchvision_draws_them():
    n, area = 2500, (0.08, 1.0)
    sizes = torch.tensor([[20, 48], [33, 25], [12, 60]])
    boxes = crop_boxes(area, sizes.repeat(n, 1).T.float()).view(n, len(sizes), 4)
    for own, (height, width) in zip(boxes.unbind(1), sizes.tolist()):
        assert boxes_are_torchvisions(own, area, height, width)


def test_where_no_box_fits_each_image_has_its_own_centre_as_torchvisions():
    sizes = torch.tensor([[10, 60], [60, 10], [50, 13], [7, 11], [16, 16], [375, 500], [1, 9]])
    theirs = [
        transforms.RandomResizedCrop.get_params(torch.zeros(1, *size), [3.0, 3.0], [3 / 4, 4 / 3])
        for size in sizes.tolist()
    ]  # no box of three times the image's area fits
    assert torch.equal(crop_boxes((3.0, 3.0), sizes.T.float()), torch.tensor(theirs).float())


def test_sizes_that_are_all_alike_change_no_draw():
    make, n = Augment(**NEUTRAL, **ALL), 300
    torch.manual_seed(3)
    alike = make.draw(n, (20, 28), CPU)
    torch.manual_seed(3)
    told = make.draw(n, (64, 48), CPU, torch.tensor([20, 28]).expand(n, 2))
    assert torch.equal(alike.boxes, told.boxes) and torch.equal(alike.blur.sigma, told.blur.sigma)


def test_a_padded_image_gives_the_view_of_the_image_alone():
    images, sizes = padded(150)
    make = Augment(**NEUTRAL, **ALL)
    draws = make.draw(150, (40, 40), CPU, sizes)
    views = make.apply(images, draws)
    for i, (height, width) in enumerate(sizes[:30].tolist()):
        alone = make.apply(images[i : i + 1, :, :height, :width].contiguous(), draws[i : i + 1])
        torch.testing.assert_close(views[i : i + 1], alone, atol=1e-5, rtol=0)
    outside = (torch.arange(40).view(-1, 1) >= sizes[:, :1, None]) | (torch.arange(40) >= sizes[:, 1:, None])
    assert torch.equal(make.apply(images.masked_fill(outside.unsqueeze(1), 0), draws), views)
    torch.manual_seed(1)
    both = make(images, sizes)
    torch.manual_seed(1)
    assert torch.equal(both, make.apply(images, make.draw(150, (40, 40), CPU, sizes)))


# Evaluation


@pytest.mark.parametrize("share", [1.0, 0.875, 0.5])
def test_evaluation_sees_the_central_square_resized(share):
    images, sizes = padded(140)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    clean = Augment(mean=mean, std=std, eval_size=16, eval_crop=share).clean(images, sizes)
    assert clean.is_contiguous(memory_format=torch.channels_last)
    for image, (height, width), ours in zip(images, sizes.tolist(), clean):
        x = TF.center_crop(image[:, :height, :width].float(), [round(share * min(height, width))] * 2)
        x = TF.resize(x, [16, 16], antialias=True) / 255
        torch.testing.assert_close(ours, TF.normalize(x, mean, std), atol=1e-5, rtol=0)


def test_seven_eighths_of_256_pixels_is_the_central_crop_of_224_without_resampling():
    make = Augment(**NEUTRAL, eval_size=224, eval_crop=0.875)
    images, widths = random_images(3, 256, 341), [341, 300, 257]
    several = make.clean(images, torch.tensor([[256, width] for width in widths]))
    for image, width, ours in zip(images, widths, several):
        crop = TF.center_crop(image[:, :, :width], [224, 224]) / 255
        torch.testing.assert_close(ours, crop, atol=1e-7, rtol=0)  # one rounding of a product or of a quotient
        assert torch.equal(make.clean(image[None, :, :, :width])[0], crop)


@pytest.mark.parametrize("eval_size", [None, 24, 48])
def test_evaluation_of_whole_images_is_as_it_was(eval_size):
    images = random_images(7, 32, 32)
    x = images.float().div_(255)
    if eval_size:
        x = torch.nn.functional.interpolate(x, size=(eval_size,) * 2, mode="bilinear", antialias=True)
    assert torch.equal(Augment(**NEUTRAL, eval_size=eval_size).clean(images), x)


def test_images_of_several_sizes_need_sizes_of_views_and_of_evaluation():
    images, sizes = padded(5)
    make = Augment(**NEUTRAL)
    with pytest.raises(UserError, match="give augment.size"):
        make(images, sizes)
    with pytest.raises(UserError, match="give augment.eval_size"):
        make.clean(images, sizes)
