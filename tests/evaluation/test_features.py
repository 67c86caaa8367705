"""Features of many images."""

import pytest
import torch
from small_images import backbone, images, to_float
from torch import nn

from moco.errors import UserError
from moco.evaluation.features import features


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_features_are_the_forward_pass_in_float32():
    encoder, (x, _) = backbone().eval(), images(11)

    def encode(batch):
        h = encoder(batch)
        return h, h[:, :2].bfloat16()

    first, second = features(encode, x, to_float, batch_size=4)
    with torch.no_grad():
        want = encoder(to_float(x))
    torch.testing.assert_close(first, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, want[:, :2].bfloat16().float(), rtol=1e-2, atol=1e-3)
    assert first.dtype == second.dtype == torch.float32 and not first.requires_grad
    (single,) = features(encoder, x, to_float)
    torch.testing.assert_close(single, want)
    nn.Linear(6, 2)(single).sum().backward()  # usable in training, which inference-mode tensors are not


def test_features_that_are_not_finite_are_a_failure():
    x, _ = images(5)
    with pytest.raises(UserError, match="some features are infinite or NaN, so the network has diverged"):
        features(
            lambda batch: (to_float(batch).flatten(1)[:, :2], to_float(batch).flatten(1)[:, :3] / 0), x, lambda b: b
        )
