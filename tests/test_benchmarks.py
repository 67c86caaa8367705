"""What the benchmark of the training step compares does the same: losses, weights and queue."""

import copy
import sys

import torch
from common import ROOT
from torch import nn

from moco.methods.moco import MoCo
from moco.model import SmallResNet

sys.path.append(str(ROOT / "benchmarks"))
from compare import lines, ratios
from step import SETTINGS, Reference


def test_the_reference_loop_and_ours_take_the_same_steps() -> None:
    torch.manual_seed(0)
    settings = {**SETTINGS, "m": 32}
    method = MoCo(SmallResNet([8, 16]), splits=1, **settings)
    network = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    theirs = torch.optim.SGD(network.parameters(), lr=0.05)
    loop = Reference(network, method.queue.clone(), theirs, settings["temperature"], settings["momentum"])
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    for _ in range(4):
        x1, x2 = torch.randn(2, 16, 3, 16, 16)
        loss = method(x1, x2, torch.arange(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(loss.item(), loop.step(x1, x2), rtol=1e-5, atol=0)
    for ours, reference in zip([*method.encoder.parameters(), *method.head.parameters()], network.parameters()):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    by_age = method.queue.roll(-int(method.position), 0)
    torch.testing.assert_close(by_age, loop.queue, rtol=1e-4, atol=1e-5)


def test_what_got_slower_is_marked() -> None:
    found = dict(ratios({"a": {"times as fast": {"x": 2.0, "y": 1.0}}, "times as fast": {"z": 3.0, "new": 1.0}}))
    assert found == {"x": 2.0, "y": 1.0, "z": 3.0, "new": 1.0}
    shown = [" ".join(line.split()) for line in lines(found, {"x": 3.0, "y": 1.05, "z": 2.0})]
    assert shown == ["3.00 2.00 z faster", "1.00 (new) new", "2.00 3.00 x SLOWER", "1.00 1.05 y"]
