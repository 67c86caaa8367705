"""In what configurations that are ranked together differ beside what they are compared by: how long they were trained."""

from collections.abc import Iterable, Sequence

from moco.analysis.configurations import Configuration
from moco.analysis.numbers import is_number
from moco.config.schema import Config
from moco.io import Json
from moco.runs.identity import target_name
from moco.runs.settings import plain

NEAR = 1.02  # images seen that differ by less come from the last, incomplete batch of an epoch
NAMED = 4  # so many values are named
VIEWS = "method.views"  # of each image in a step


def differences(found: Sequence[Configuration]) -> str:
    """The differences in words: epochs=8, 14; images seen 0.4 to 0.7 million. Empty where there are none."""
    said = [_values(key, [one.flat.get(key) for one in found]) for key in ("epochs", "data.validation")]
    said.append(_values(VIEWS, filter(None, map(_views, found))))
    seen = [images for one in found if (images := _seen(one))]
    if seen and max(seen) > NEAR * min(seen):
        low, high = (f"{images / 1e6:.3g}" for images in (min(seen), max(seen)))
        said.append(f"images seen {low} to {high} million")
    return "; ".join(filter(None, said))


def _views(one: Configuration) -> Json:
    """How many views of each image SimCLR takes, also where it was trained before there was a choice; None for others."""
    simclr = target_name(str(one.flat.get("method._target_"))) == "SimCLR"
    return one.flat.get(VIEWS, Config.as_before()["SimCLR.views"] if simclr else None)


def _values(key: str, found: Iterable[Json]) -> str:
    """The values of a setting that differs."""
    texts = [plain(value) for value in sorted({value if is_number(value) else 0 for value in found})]
    if len(texts) < 2:
        return ""
    return f"{key}={', '.join(texts)}" if len(texts) <= NAMED else f"{key}={texts[0]} to {texts[-1]}"


def _seen(one: Configuration) -> float | None:
    """Images that a finished seed was trained on, epochs together; None where unknown."""
    steps = [entry.result.steps for entry in one.entries if entry.result and entry.result.steps]
    batch = one.flat.get("batch_size")
    return max(steps) * batch if steps and is_number(batch) else None
