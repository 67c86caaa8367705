"""Weights from elsewhere as a run: a folder whose backbone nobody here has trained, scored as any other."""

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.config.check import thaw
from moco.config.components import instantiate
from moco.config.schema import Config, Model, WeightsEval
from moco.errors import UserError
from moco.io import Json, write_json
from moco.protocols import KNN
from moco.runs import provenance
from moco.runs.identity import folder_name
from moco.runs.lease import BY_HAND
from moco.runs.run import Run
from moco.tracking.environment import check_environment
from moco.training.distributed import agreed, first, joined, say, told
from moco.training.pretrain import holding, look, now, of_images, tracking
from moco.training.same_data import check_files, keep

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def evaluate_weights(asked: WeightsEval) -> float:
    """Linear evaluation of these weights, once they are a run; top-1 in percent.

    Raises:
        UserError, Stopped: as run_of_weights and linear_eval.
    """
    from moco.training.linear_eval import linear_eval

    with joined(asked.device):
        run = run_of_weights(asked)
        return linear_eval(run, asked.of_run(run.id))


def run_of_weights(asked: WeightsEval) -> Run:
    """The finished run that these weights are, with its kNN; made where it is not there yet.

    Its folder has the weights in checkpoint.pt, so that the file may go. The id follows from the file's name and bytes,
    the model, the data and the way that images are looked at.

    Raises:
        UserError: the file cannot be read or does not fit the model: nothing is written then.
    """
    with joined(asked.device):
        with agreed():
            weights, sha256 = read(Path(asked.weights))
            frozen = asked.frozen(sha256, _model(asked.model, weights))
            config = thaw(frozen)
            run = Run(Path(config.runs_dir) / folder_name(config))
            look(run, asked.device)
        if told(run.result) is None or asked.rerun:
            _make(run, asked, config, frozen, weights)
        else:
            with agreed():
                check_files(run, config)
        return run


def read(path: Path) -> "tuple[dict[str, Tensor], str]":
    """The tensors by name that a .pth or .safetensors file holds, on the CPU, and the hash of its bytes.

    Raises:
        UserError: there is no such file, it is damaged, or it holds more than tensors, which could run code.
    """
    import torch

    from moco.models.foreign import state_dict

    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(f"{path} needs safetensors: pip install safetensors") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a file of weights") from error
    except Exception as error:  # torch raises whatever a damaged file leads to, and where there is more than tensors
        if "This file can still be loaded" in str(error):  # torch's word for globals that it does not allow
            raise UserError(
                f"{path} holds more than tensors, and to load that could run code: where you trust it, save its state dict "
                "alone: torch.save(torch.load(file, weights_only=False)['state_dict'], 'weights.pth')"
            ) from error
        raise UserError(
            f"{path} is no file of weights, or damaged ({type(error).__name__}): give a .pth or a .safetensors file"
        ) from error
    if not (found := state_dict(content)):
        raise UserError(f"{path} holds no tensors by name: give a state dict, or a checkpoint that has one")
    return found, sha256


def _model(model: Model, weights: "dict[str, Tensor]") -> Model:
    """The model, with the stem of the weights where it has one that was not given."""
    from moco.models.foreign import stem

    wanting = "stem" in model.model_fields_set and model.stem is None
    return model.model_copy(update={"stem": stem(weights)}) if wanting else model


def _make(run: Run, asked: WeightsEval, config: Config, frozen: dict[str, Json], weights: "dict[str, Tensor]") -> None:
    """Loads the weights, measures kNN and writes the run."""
    from moco.training.checkpoint import save_checkpoint
    from moco.training.components import Components, two_images
    from moco.training.evaluation import evaluation
    from moco.training.signals import Signals
    from moco.training.trial import try_method

    began = time.monotonic()
    with Signals(asked.rerun) as signals:
        with signals.preparing(), agreed():
            check_environment(asked.tracker)
            parts = Components(config, asked.device, pretrained=False)
            parts.check_sizes()
            say(f"{asked.weights}: {_loaded(asked, weights, parts.encoder)}")
            method = instantiate(config.method, encoder=parts.encoder).to(parts.device)
            views, two = parts.views(), two_images(parts.data)
            described = try_method(method, config, parts.autocast(), views(two), views.clean(two))
        with holding(run, "weights", parts.device, BY_HAND, signals) as lease:
            if told(run.result) is not None and not asked.rerun:  # by another process, while this one was building
                return
            scores = evaluation(parts, method, views, last=lambda: True)()
            lease.check()
            if first():
                run.clear()
                write_json(run.folder / "config.json", frozen)
                keep(run, parts.data_described)
                provenance.record(run.folder, parts.device, "bf16" if parts.bf16 else "fp32")
                save_checkpoint({"step": 0, "method": method.state_dict()}, run.checkpoint)
                with tracking(asked.tracker, run, config, "linear_eval", BY_HAND) as tracker:
                    line: dict[str, Json] = {"epoch": 0, "step": 0, **scores}
                    run.append_metrics(line)
                    tracker.log(0, line)
                lease.check()
                told_of = {**described, "weights": asked.weights, "seconds": round(time.monotonic() - began, 1)}
                run.write_result(
                    {
                        KNN.top1: None,
                        **scores,
                        "epochs": 0,
                        "steps": 0,
                        **told_of,
                        **of_images(parts),
                        "finished": now(),
                    }
                )
            signals.obey()  # the linear evaluation follows


def _loaded(asked: WeightsEval, weights: "dict[str, Tensor]", encoder: "Module") -> str:
    """Loads the weights into the backbone; says which they are, and what was left out of the file.

    Raises:
        UserError: they do not fit.
    """
    from moco.models.foreign import fitted, in_words

    try:
        found = fitted(weights, encoder)
    except UserError as error:
        raise UserError(f"{asked.weights} does not fit model={asked.model.name}: {error}") from error
    encoder.load_state_dict(found.state)
    after = f" after {found.prefix}" if found.prefix else ""
    rest = f"; left out of the file: {in_words(found.left_out)}" if found.left_out else ""
    return f"it has all {len(found.state)} tensors of model={asked.model.name}{after}{rest}"
