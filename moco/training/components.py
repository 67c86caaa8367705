"""What training and linear evaluation build alike from a configuration, on the device."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from moco.config.schema import build
from moco.errors import UserError
from moco.runs.run import Run


class Parts:
    """What training and linear evaluation build alike: data on the device, backbone, views, precision."""

    def __init__(self, cfg: Mapping[str, Any], device: str):
        import torch

        from moco.models.resnet import channels_last

        self.cfg, self.device = cfg, choose_device(device)
        data = build(cfg["data"])
        self.data = data.hold_out(cfg["data"]["validation"]) if cfg["data"]["validation"] else data
        torch.manual_seed(cfg["seed"])
        self.encoder: Any = channels_last(build(cfg["model"]))
        self.data = self.data.to(self.device)
        self.bf16 = choose_bf16(cfg["precision"], self.device)

    def views(self, **changes: Any) -> Any:
        """The augmentation of the configuration, or with other values."""
        section = dict(self.cfg["augment"]) | changes
        mean, std = [0.0] * 3, [1.0] * 3
        if section["normalize"]:
            given = self.cfg["data"]["mean"], self.cfg["data"]["std"]
            mean, std = given if all(given) else self.data.moments()
        return build(section, mean=mean, std=std)

    def probe_views(self) -> Any:
        """Random resized crops and flips of linear evaluation on augmented images (leftthomas/SimCLR, linear.py).

        They are as large as the images of evaluation: a classifier fitted to features of another size loses points.
        """
        size = self.cfg["augment"]["eval_size"]
        return self.views(size=size, crop=[0.08, 1.0], flip=0.5, jitter=[0.0] * 4, gray=0.0, blur=0.0, solarize=0.0)

    def autocast(self) -> Any:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def choose_device(name: str) -> Any:
    """The torch device of that name; auto takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: there is no such device, or the environment names a GPU where there is none to be had.
    """
    import torch

    if name == "auto":
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        if listed and not listed.startswith("-") and not torch.cuda.is_available():
            raise UserError(
                f"CUDA_VISIBLE_DEVICES={listed} names a GPU that is not to be had: give another or device=cpu"
            )
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[device.type]
    if (device.index or 0) >= present:
        raise UserError(f"device={name} is not here ({present} of its kind): give device=auto or device=cpu")
    return device


def choose_bf16(precision: str, device: Any) -> bool:
    """Whether to compute in bfloat16: as asked, or where the hardware has units for it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_sizes(cfg: Mapping[str, Any], data: Any) -> None:
    """Refuses numbers that the data set is too small for.

    Raises:
        UserError: a line for each.
    """
    n, bank = len(data.train_images), len(data.labelled()[1])
    problems = []
    if cfg["batch_size"] > n:
        problems.append(f"batch_size={cfg['batch_size']} is more than the {n} training images: give at most {n}")
    if cfg["k"] > bank:
        problems.append(f"k={cfg['k']} is more than the {bank} labelled training images that vote: give at most {bank}")
    if len(data.test_images) == 0:
        problems.append(f"data.validation={cfg['data']['validation']} leaves no image to evaluate on: give more")
    if problems:
        raise UserError("\n".join(problems))


def knn_evaluation(cfg: Mapping[str, Any], parts: Parts, method: Any, views: Any) -> Callable[[], dict[str, float]]:
    """A function that scores the method's backbone and head by weighted kNN, top-1 and top-5 in percent."""
    from moco.evaluation import knn as evaluation

    bank, labels = parts.data.labelled()

    def encode(x: Any) -> tuple[Any, Any]:
        with parts.autocast():
            h = method.encoder(x)
            return h, method.head(h)

    def evaluate() -> dict[str, float]:
        with evaluation.eval_mode(method):
            banks = evaluation.features(encode, bank, views.clean)
            queries = evaluation.features(encode, parts.data.test_images, views.clean)
        metrics = {}
        for name, b, q in zip(("knn", "knn_head"), banks, queries):
            metrics[f"{name}/top1"], metrics[f"{name}/top5"] = evaluation.knn(
                b,
                labels,
                q,
                parts.data.test_labels,
                k=cfg["k"],
                temperature=cfg["knn_temperature"],
                num_classes=len(parts.data.classes),
            )
        return metrics

    return evaluate


def load_encoder(run: Run, encoder: Any) -> Any:
    """The backbone with the weights of the run's checkpoint, loaded strictly.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another shape.
    """
    from moco.training.trainer import load_checkpoint

    content = load_checkpoint(run.checkpoint)["method"]
    prefix = "encoder."
    weights = {key[len(prefix) :]: value for key, value in content.items() if key.startswith(prefix)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ")[:160]
        raise UserError(f"{run.checkpoint} does not fit its config.yaml ({reason}): it is kept") from error
    return encoder
