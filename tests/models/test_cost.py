"""Parameters and multiply-adds, by hand and by the sizes that are known of networks."""

import copy

import torch
from torch import nn

from moco.models import SmallResNet, torchvision_resnet
from moco.models.cost import count
from moco.models.heads import projection_head


def million(parameters: int) -> float:
    return round(parameters / 1e6, 2)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_resnet18_has_the_known_size():
    size, multiply_adds = count(torchvision_resnet("resnet18", "cifar"), 32)
    assert (million(size), round(multiply_adds / 1e9, 3)) == (11.17, 0.555)


def test_resnet50_has_the_known_sizes_with_classifier_and_with_the_head_of_leftthomas(checked):
    backbone = torchvision_resnet("resnet50", "cifar")
    size, multiply_adds = count(backbone, 32)
    assert round(multiply_adds / 1e9, 3) == 1.298
    assert million(size + parameters(nn.Linear(backbone.num_features, 10))) == 23.52
    for recipe in ("simclr_leftthomas", "moco_leftthomas"):
        config = checked(f"recipe={recipe}")
        method = config.method
        settings = dict(layers=method.head_layers, hidden_dim=method.hidden_dim, norm=method.head_norm)
        head = projection_head(2048, config.feature_dim, **settings)
        assert million(size + parameters(head)) == 24.62


def test_multiply_adds_of_the_small_network_by_hand():
    # 8x8 pixels, stem of stride 2: 4x4 from there on, 2x2 in the second stage
    model = SmallResNet([4, 6], stem_stride=2)
    stem, first = 16 * 3 * 4 * 9, 2 * 16 * 4 * 4 * 9
    second = 4 * 4 * 6 * 9 + 4 * 6 * 6 * 9 + 4 * 4 * 6
    convolutions = 3 * 4 * 9 + 2 * 4 * 4 * 9 + 4 * 6 * 9 + 6 * 6 * 9 + 4 * 6
    norms = 2 * (4 + 4 + 4 + 6 + 6 + 6)
    assert count(model, 8) == (convolutions + norms, stem + first + second)


def test_count_of_a_convolution_and_a_linear_layer():
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 25, 7))
    before = copy.deepcopy(module.state_dict())
    assert count(module, 5, channels=2) == (4 * 2 * 9 + 4 + 8 + 700 + 7, 4 * 2 * 9 * 25 + 700)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(m.training for m in module.modules())
    assert count(nn.Flatten(), 5) == (0, 0)


def test_count_of_resnet18_with_the_cifar_stem():
    from torchvision.models import resnet18

    module = resnet18()
    module.conv1, module.maxpool, module.fc = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity(), nn.Identity()
    params, multiply_adds = count(module, 32)
    assert params == 11_168_832
    assert multiply_adds == 555_417_600


def test_images_that_are_not_square_cost_what_their_height_and_width_make():
    module = nn.Conv2d(3, 4, 3, padding=1)
    assert count(module, (5, 7)) == count(module, (7, 5)) == (4 * 3 * 9 + 4, 4 * 3 * 9 * 35)
    assert count(module, (6, 6)) == count(module, 6)
