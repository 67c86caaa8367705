"""Whether a run is what its recipe describes, so that the number of the recipe's source may stand beside it."""

import functools

from moco.errors import UserError
from moco.runs.identity import identity
from moco.runs.run import Run


def follows(run: Run, recipe: str) -> bool:
    """Whether the run is the recipe as it is shipped, but for the seed; True for a recipe that is not shipped."""
    own = _identity(recipe)
    try:
        return own is None or identity(run.config.model_copy(update={"seed": 0})) == own
    except UserError:  # another version of the schema: it can be tabulated, not compared
        return False


@functools.cache
def _identity(recipe: str) -> str | None:
    """The id of the recipe's own configuration with seed 0; None where no recipe of that name is shipped."""
    from moco.config import compose

    config = compose.recipe(recipe)
    return None if config is None else identity(config.model_copy(update={"seed": 0}))
