"""A few images through the network before anything is written: what cannot work ends in one line and at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from moco.config.schema import Config
from moco.errors import UserError
from moco.io import Json
from moco.models.cost import count
from moco.models.modes import eval_mode
from moco.training.memory import allocating


def try_backbone(encoder: nn.Module, name: str, images: Mapping[str, Tensor]) -> None:
    """Passes images of each kind through the backbone, which stays as it was.

    Args:
        name: of the model.
        images: float32 [B, 3, H, W] by the words for them.

    Raises:
        UserError: the backbone does not take them, or does not give features [B, num_features].
    """
    num_features = getattr(encoder, "num_features", None)
    if not isinstance(num_features, int):
        raise UserError(f"model={name} does not say how many features it gives: it needs an attribute num_features")
    for kind, x in images.items():
        size = "x".join(map(str, x.shape[2:]))
        remedy = f"give another size, another model, or +model.img_size={x.shape[-1]} where the model has that option"
        with _refused(f"model={name} does not take {kind} of {size} pixels", remedy):
            with eval_mode(encoder), torch.no_grad():
                h = encoder(x)
        if not isinstance(h, Tensor) or h.shape != (len(x), num_features):
            got = list(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise UserError(f"model={name} gives {got} for {kind}: it should be [{len(x)}, {num_features}], features")


def try_method(
    method: object, config: Config, autocast: torch.autocast, view: Tensor, clean: Tensor
) -> dict[str, Json]:
    """Passes images through backbone and head and counts what that costs; the method stays as it was.

    Args:
        autocast: the context that forward passes are computed in.
        view: a random view of some images, float32 [B, 3, S, S], on the method's device.
        clean: images as they are evaluated, likewise.

    Returns:
        What result.json keeps: parameters, and multiply-adds of one image at the size at which it is evaluated.

    Raises:
        UserError: the method lacks something, its head does not take the features, or a group of `method.splits` has a
            single image, which leaves a BatchNorm without a variance.
    """
    encoder, head, views = (getattr(method, part, None) for part in ("encoder", "head", "views"))
    if not isinstance(encoder, nn.Module) or not isinstance(head, nn.Module) or not _counts(views):
        raise UserError(
            f"method={config.method.name} needs modules .encoder and .head and a number of .views: see docs/extend.md"
        )
    network = nn.Sequential(encoder, head)
    eager = torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
    with eager, torch.no_grad():
        with _refused(f"method={config.method.name}: its head does not take the features", "mend the head"):
            with eval_mode(network), autocast:
                out = network(clean)
        if out.dim() != 2:
            raise UserError(
                f"method={config.method.name}: its head gives {list(out.shape)}, it should be [B, feature_dim]"
            )
        splits = config.method.splits or 1
        if config.batch_size == splits:
            with _refused(
                f"batch_size={splits} leaves one image to each of method.splits={splits} groups", "give more images"
            ):
                with autocast:
                    _as_in_training(network, view.repeat(splits, 1, 1, 1)[:splits])
        size = (clean.shape[2], clean.shape[3])
        backbone, whole = count(encoder, size), count(network, size)
    return {
        "params": whole.parameters,
        "multiply_adds": whole.multiply_adds,
        "params_backbone": backbone.parameters,
        "multiply_adds_backbone": backbone.multiply_adds,
        "image_size": list(size),
    }


def _counts(views: object) -> bool:
    """Whether it is a number of views of an image."""
    return isinstance(views, int) and views >= 1


def _as_in_training(network: nn.Module, x: Tensor) -> None:
    """A forward pass whose new statistics are thrown away."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    torch.func.functional_call(network, buffers, (x,))


@contextmanager
def _refused(what: str, remedy: str) -> Iterator[None]:
    """Whatever a network of a library's or of the user's raises is one line; a full memory is not the network's fault."""
    try:
        with allocating(what):
            yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what} ({reason}): {remedy}") from error
