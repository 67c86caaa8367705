"""Weights that somebody else has trained, in the place of a method: they are evaluated and never trained."""

from torch import Tensor, nn

from moco.errors import UserError


class Weights(nn.Module):
    """A backbone without a head.

    Args:
        encoder: images [B, 3, H, W] -> features [B, D].
        sha256: of the file that the weights are from.
    """

    views, distributed = 1, True

    def __init__(self, encoder: nn.Module, sha256: str = ""):
        super().__init__()
        self.encoder, self.head = encoder, nn.Identity()

    def forward(self, x1: Tensor, x2: Tensor | None, index: Tensor) -> Tensor:
        """Raises UserError."""
        raise UserError("weights from elsewhere are evaluated, not trained: give a method, such as method=moco")
