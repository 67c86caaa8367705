"""Memory layout and evaluation mode."""

import pytest
import torch
from torch import nn

from moco.models import SmallResNet
from moco.models.modes import channels_last, eval_mode, random_part


def test_channels_last_changes_the_layout_alone():
    x = torch.randn(4, 3, 16, 16)
    model = SmallResNet([8, 16]).eval()
    before = model(x)
    channels_last(model)
    assert model.stages[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), before)


def test_eval_mode_restores_every_flag():
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout())
    module[1].eval()
    flags = [m.training for m in module.modules()]
    assert len(set(flags)) == 2
    with pytest.raises(RuntimeError, match="inside"):
        with eval_mode(module):
            assert not any(m.training for m in module.modules())
            raise RuntimeError("inside")
    assert [m.training for m in module.modules()] == flags


def test_a_part_that_draws_at_random_is_found_by_its_name():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0), nn.Sequential(nn.Dropout2d(0.1)))
    assert random_part(network) == "2.0 (Dropout2d)" and random_part(network[:2]) is None
