"""A run's frozen backbone on another data set than its own: what its images have to be like. Imports no torch."""

from moco.config.schema import Config, Data
from moco.errors import UserError
from moco.protocols import known_as
from moco.runs.run import Run


def on_other_data(run: Run, data: Data) -> Config:
    """The run's configuration with this data set, its images normalised and sized as the backbone knows its own.

    Mean and deviation are the run's, since they are a part of what the frozen backbone was trained with. So is the size in
    evaluation, where the run's is square.

    Raises:
        UserError: it has the name of the run's own, under which the run's own results are.
    """
    config, result = run.config, run.result or {}
    if known_as(data.name) == known_as(config.data.name):
        raise UserError(
            f"data={data.name} is what {run.folder} was trained on: leave it out (data.root=... alone says where its images "
            "lie), or give data.name=<another> where these are others"
        )
    mean, std, size = (result.get(key) for key in ("mean", "std", "image_size"))
    if isinstance(mean, list) and isinstance(std, list):  # runs of earlier versions have not kept them
        data = data.model_copy(update={"mean": mean, "std": std})
    augment = config.augment.model_copy(update={"smaller": None})  # as at the end of its training
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        augment = augment.model_copy(update={"eval_size": size[0], "size": size[0]})
    return config.model_copy(update={"data": data, "augment": augment})
