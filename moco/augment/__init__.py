"""Random views of image batches."""

from moco.augment.draws import Draws
from moco.augment.views import Augment

__all__ = ["Augment", "Draws"]
