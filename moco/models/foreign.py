"""Weights that other code has trained: found in its files, named as in our backbones, and loaded strictly."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from moco.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep a state dict
# What stands before a backbone's names; the first that fits is taken, so that a momentum encoder beside it is not.
PREFIXES = (
    "",  # torchvision, timm
    "module.encoder_q.",  # facebookresearch/moco, main_moco.py, by DistributedDataParallel
    "encoder_q.",
    "module.base_encoder.",  # facebookresearch/moco-v3
    "backbone.",  # lightly's examples and benchmarks, solo-learn
    "module.backbone.",
    "encoder.",  # older solo-learn, and many others
    "module.encoder.",  # facebookresearch/simsiam
    "module.",
    "model.",
)
# Classifiers and heads that stand beside a backbone's last layer: they are left out, and that is said.
HEADS = ("fc", "classifier", "head", "heads", "last_linear", "linear")
NAMED = 3  # names that an error lists of each kind


class Found(NamedTuple):
    """The weights that a file has for a backbone.

    Attributes:
        state: what the backbone loads.
        prefix: what stood before the names.
        left_out: the names that were not needed, as the file has them.
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: list[str]


def state_dict(content: object) -> dict[str, Tensor]:
    """The tensors by name that a file holds, whatever stands around them; empty where there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(inner := content.get(key), Mapping):
            return state_dict(inner)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def stem(weights: Mapping[str, Tensor]) -> str:
    """Which stem a ResNet has with these weights: imagenet, where some first convolution is 7x7, else cifar."""
    kernels = [value.shape[-1] for value in weights.values() if value.dim() == 4 and value.shape[1] == 3]
    return "imagenet" if 7 in kernels else "cifar"


def fitted(weights: Mapping[str, Tensor], encoder: nn.Module) -> Found:
    """The weights that the backbone needs, all of them and each of its shape.

    Names are as in the backbone, after one of PREFIXES, or numbered as nn.Sequential(*backbone.children()) numbers them, as
    in lightly's examples. What BatchNorm counts may be absent, since older files lack it.

    Raises:
        UserError: something is missing, has another shape, or is of no use to this backbone, with names of each kind.
    """
    wanted: dict[str, Tensor] = encoder.state_dict()
    children = [name for name, _ in encoder.named_children()]
    candidates = [
        (prefix, names)
        for prefix in PREFIXES
        for names in _named(prefix, weights, children)
        if names.keys() & wanted.keys()
    ]
    if not candidates:
        raise UserError(f"its names are none of this model's ({_some(sorted(weights)) or 'it holds no tensor'})")
    prefix, names = min(candidates, key=lambda one: len(_missing(one[1], wanted)))
    mistakes = {
        "lacks": _missing(names, wanted),
        "has in another shape": [
            f"{name} ({_shape(weights[its])}, not {_shape(wanted[name])})"
            for name, its in names.items()
            if name in wanted and weights[its].shape != wanted[name].shape
        ],
        "has besides": [name for name in names if name not in wanted and name.split(".")[0] not in HEADS],
    }
    if said := [f"{kind} {_some(wrong)}" for kind, wrong in mistakes.items() if wrong]:
        raise UserError(f"it {' and '.join(said)}{f', after {prefix}' if prefix else ''}")
    used = {its for name, its in names.items() if name in wanted}
    state = {name: weights[names[name]] if name in names else value for name, value in wanted.items()}
    return Found(state, prefix, [its for its in weights if its not in used])


def _named(prefix: str, weights: Mapping[str, Tensor], children: Sequence[str]) -> list[dict[str, str]]:
    """Names after the prefix, with those in the file: as they are, and with a child's name where they begin with its number."""
    after = {name[len(prefix) :]: name for name in weights if name.startswith(prefix)}
    numbered = {}
    for name, its in after.items():
        if (match := re.fullmatch(r"(\d+)\.(.*)", name)) and int(match[1]) < len(children):
            numbered[f"{children[int(match[1])]}.{match[2]}"] = its
    return [after, numbered]


def _missing(named: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [name for name in wanted if name not in named and not name.endswith("num_batches_tracked")]


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "one number"


def _some(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def in_words(left_out: Sequence[str]) -> str:
    """What of a file was left out, in a few words: the first two parts of the names, with their numbers."""
    counts = Counter(".".join(name.split(".")[:2]) for name in left_out)
    listed = [f"{name} ({n})" if n > 1 else name for name, n in counts.most_common(NAMED)]
    more = sum(counts.values()) - sum(n for _, n in counts.most_common(NAMED))
    return ", ".join(listed) + (f" and {more} more" if more else "")
