"""Models that a sweep asks for and that no file of conf/model vouches for are made once before it begins.

In a process of its own, since it takes torch, which nothing else of a launch loads: `python -m moco.launch.models`.
"""

import json
import subprocess
import sys
from collections.abc import Iterable

from moco.config.schema import Config, Model
from moco.errors import UserError
from moco.launch.job import Task

SHIPPED = ("resnet18", "resnet34", "resnet50")
SECONDS = 300.0  # what takes longer is left to the jobs


def refuse_models(tasks: Iterable[Task]) -> None:
    """Refuses architectures and options that do not exist, and networks that cannot be split or taken in pieces.

    Raises:
        UserError: a line for each.
    """
    words = dict.fromkeys(_word(task.config) for task in tasks if task.config and _is_open(task.config.model))
    if not words:
        return
    command = [sys.executable, "-m", "moco.launch.models"]
    try:
        made = subprocess.run(command, input="\n".join(words), capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    if made.returncode == 0 and (problems := json.loads(made.stdout.splitlines()[-1])):
        raise UserError("\n".join(problems))


def _is_open(model: Model) -> bool:
    """Whether only the model itself knows that it can be made."""
    shipped = {"moco.models.SmallResNet": (None,), "moco.models.torchvision_resnet": SHIPPED}
    return model.architecture not in shipped.get(model.target, ())


def _word(config: Config) -> str:
    """What is to be made and tried, see problems_of."""
    splits, micro_batch = config.method.splits or 1, config.micro_batch
    pieces = [micro_batch, config.batch_size] if micro_batch else None
    return json.dumps([config.model.unweighted().model_dump(by_alias=True), splits, pieces])


def problems_of(words: Iterable[str]) -> list[str]:
    """Why models cannot be made, each line once.

    Args:
        words: as JSON the section of each model, the groups of its BatchNorms, and micro_batch with batch_size.
    """
    from moco.config.components import instantiate
    from moco.methods.split_batchnorm import split_batch_norm
    from moco.models.pieces import take_in_pieces

    found: dict[str, None] = {}
    for word in words:
        section, splits, pieces = json.loads(word)
        try:
            model = instantiate(Model.model_validate(section))
            if splits > 1:
                split_batch_norm(model, splits)
            if pieces:
                take_in_pieces(model, pieces[0], batch=pieces[1], group=pieces[1] // splits)
        except UserError as error:
            found |= dict.fromkeys(str(error).splitlines())
    return [*found]


if __name__ == "__main__":
    print(json.dumps(problems_of(sys.stdin.read().splitlines())))
