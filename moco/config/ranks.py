"""What several devices that share a run ask of its configuration; told before anything is queued. Imports no torch."""

from collections.abc import Iterator

from moco.config.schema import Config, LinearEval


def problems(config: Config | LinearEval, ranks: int) -> list[str]:
    """A line for each setting that so many devices (ranks, one process each) cannot share; none for one device.

    The batch is cut into equal shares. BatchNorm takes statistics over `method.splits` groups of the whole batch, so either
    a device holds whole groups, or a group whole devices.
    """
    return [*_problems(config, ranks)] if ranks > 1 else []


def _problems(config: Config | LinearEval, ranks: int) -> Iterator[str]:
    if config.device == "mps":
        yield f"device=mps is one device, and {ranks} are to share the run: give device=cpu, or one device"
    if isinstance(config, LinearEval):
        return
    if config.batch_size % ranks:
        yield (
            f"batch_size={config.batch_size} is not a multiple of the {ranks} devices that share it: give another, or "
            "another number of devices"
        )
    splits = config.method.splits
    if splits and splits % ranks and ranks % splits:
        yield (
            f"method.splits={splits} does not fit {ranks} devices, as neither is a multiple of the other: give "
            f"method.splits={ranks}, or another number of devices"
        )
