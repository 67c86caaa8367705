"""A small backbone without a kink: where a ReLU turns over, rounding becomes a difference that one can see."""

from torch import nn


class Smooth(nn.Sequential):
    num_features = 16

    def __init__(self, **ignored: object):
        super().__init__(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.SiLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )


class Dropping(Smooth):
    """Draws at random in training."""

    def __init__(self, **ignored: object):
        super().__init__()
        self.append(nn.Dropout())
