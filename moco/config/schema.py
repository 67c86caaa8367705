"""The typed schema: every key, its type, its range and its one-line meaning, in one place.

One `Config` goes from the command line to the checkpoint. A key that is added later gets a default here, the value that
means "as before": configurations that were frozen without it stay valid, and it enters a run's id only where it differs.
Imports neither torch nor hydra.
"""

import functools
import os
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from moco.io import Json
from moco.protocols import LINEAR_PROTOCOLS, Protocol

VERSION = 1  # of the schema; a frozen configuration carries that of the code that froze it
DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"

# Arguments of components that were added to conf/ later, with the value that means "as before"; named by group
# (schedule.restarts), or by class where others of the group had the argument from the start (SimCLR.splits). May only grow.
ARGUMENTS_AS_BEFORE: dict[str, Json] = {
    "BarlowTwins.splits": 1,
    "NPID.splits": 1,
    "SimCLR.splits": 1,
    "SimCLR.views": 2,
    "method.head_out_norm": False,
    "model.zero_init_residual": False,
}


WEIGHTS = "moco.methods.Weights"  # the method of weights that were trained elsewhere
# What stands for a training in the configuration of such weights, which has none.
UNTRAINED: dict[str, Json] = {
    **dict.fromkeys(("temperature", "m", "feature_dim", "momentum", "recipe")),
    **{"batch_size": 2, "epochs": 1, "eval_every": 1, "checkpoint_minutes": 5, "compile": False, "linear_eval": False},
    "optimizer": {"name": "none", "_target_": "torch.optim.SGD", "lr": 1, "weight_decay": 0, "scale_lr": False},
    "schedule": {"name": "none", "_target_": "moco.optim.constant", "warmup_epochs": 0},
}

MOST_SEED = 2**63 - 1
MOST_PIXELS = 1_000_000  # of a side
MOST_LR = 1e30  # far beyond this torch's optimizers cannot turn a number into a float32
LONGEST = 80  # characters of a name: three of them and the id are a run's folder, which file systems keep under 255


class Checked(BaseModel):
    """Refuses true and false as numbers, which Python takes for 1 and 0."""

    # What validates is built where it is first used: --help shows the keys alone.
    model_config = ConfigDict(populate_by_name=True, allow_inf_nan=False, frozen=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, about: ValidationInfo) -> object:
        found = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in found) and not _takes_bool(cls, str(about.field_name)):
            raise PydanticCustomError("not_bool", "should not be true or false")
        return value


@functools.cache
def _takes_bool(schema: type[BaseModel], field: str) -> bool:
    annotation = schema.model_fields[field].annotation
    return bool in (annotation, *get_args(annotation))


def _absolute(path: str) -> str:
    """The path from the root of the file system on, ~ expanded, so that it means the same wherever a job runs."""
    try:
        return os.path.join(os.getcwd(), os.path.expanduser(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} cannot be found, since the working directory is gone: change to another") from error


def _expanded(path: str) -> str:
    """The path with ~ expanded. Its length is not pydantic's to check, which refuses names that are not UTF-8."""
    if not path:
        raise ValueError("runs_dir is empty: give the folder where the runs' folders lie")
    return os.path.expanduser(path)


def _absolute_if_there(path: str) -> str:
    """A folder's path from the root on; what is no folder stays, as it may be a name on a hub."""
    if not path:
        raise ValueError("it is empty")
    return _absolute(path) if os.path.isdir(os.path.expanduser(path)) else path


Place = Annotated[str, AfterValidator(_absolute)]
HubOrFolder = Annotated[str, AfterValidator(_absolute_if_there)]
RunsDir = Annotated[str, AfterValidator(_expanded)]


class Section(Checked):
    """A group whose keys are all known."""

    model_config = ConfigDict(extra="forbid")


class Component(Checked):
    """A group that names what it builds; keys beyond the typed ones are arguments of `_target_`."""

    model_config = ConfigDict(extra="allow")
    OWN: ClassVar[frozenset[str]] = frozenset({"name"})  # keys for the project itself, not for the target

    name: str = Field(min_length=1, max_length=LONGEST)
    target: str = Field(alias="_target_", pattern=r"^[A-Za-z_][\w.]+\.\w+$")

    def arguments(self) -> dict[str, Json]:
        """The section as Hydra's instantiate takes it: `_target_` and what was given for it."""
        given: dict[str, Json] = self.model_dump(by_alias=True, exclude_unset=True)
        return {key: value for key, value in given.items() if key not in self.OWN}


class Method(Component):
    """The method; of the first four keys those that it uses, as copies of the root keys."""

    temperature: float | None = None
    m: int | None = None
    feature_dim: int | None = None
    momentum: float | None = None
    momentum_end: float | None = Field(None, ge=0, le=1)
    symmetric: bool | None = None
    head_layers: Literal[1, 2, 3] | None = None
    hidden_dim: int | None = Field(None, gt=0)
    head_norm: bool | None = None
    head_out_norm: bool | None = None
    splits: int | None = Field(None, ge=1)
    views: int | None = Field(None, ge=2)
    off_diagonal: float | None = Field(None, ge=0)
    loss_scale: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _hidden_layer(self) -> Self:
        if self.head_layers == 1 and (self.hidden_dim or self.head_norm):
            raise ValueError(
                "method.hidden_dim and method.head_norm are settings of a hidden layer: leave them out, or give "
                "method.head_layers=2"
            )
        return self


class Model(Component):
    architecture: str | None = None
    stem: Literal["cifar", "imagenet"] | None = None
    pretrained: bool = False
    zero_init_residual: bool | None = None
    widths: list[Annotated[int, Field(ge=1)]] | None = Field(None, min_length=1)
    stem_stride: int | None = Field(None, ge=1)
    pooled: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if self.widths and self.pooled and self.pooled > len(self.widths):
            raise ValueError(
                f"model.pooled={self.pooled} should be 1 to {len(self.widths)}, the number of stages (model.widths)"
            )
        return self

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has BatchNorm for sure; others tell when they are made."""
        return self.target in ("moco.models.SmallResNet", "moco.models.torchvision_resnet")

    def unweighted(self) -> Self:
        """Without the weights that somebody else trained, for what replaces them at once."""
        return self.model_copy(update={"pretrained": False}) if self.pretrained else self


class Data(Component):
    OWN = Component.OWN | {"validation", "mean", "std", "storage"}

    name: str | None = Field(None, max_length=LONGEST)  # type: ignore[assignment]  # an image folder without a name takes its folder's, see named
    root: Place | None = None
    path: HubOrFolder | None = None
    size: int | None = Field(None, ge=4, le=MOST_PIXELS)
    packed: Literal["raw", "jpeg"] = "raw"
    storage: Literal["auto", "device", "disk"] = "auto"
    cache: Place | None = None
    skip_corrupt: bool = False
    validation: float = Field(ge=0, lt=1)
    mean: list[float] | None = Field(None, min_length=3, max_length=3)
    std: list[float] | None = Field(None, min_length=3, max_length=3)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        """An image folder without a name takes its folder's, a data set of the hub the last word of its name there."""
        if not isinstance(given, dict) or given.get("name"):
            return given
        hub = "path" in given
        if not given.get("path" if hub else "root"):
            raise ValueError(
                "data.path is missing: give a name on the hub, or a local folder"
                if hub
                else "data.root is missing: give a folder that holds train/<class>/ and test/<class>/"
            )
        folder = os.path.basename(os.path.normpath(_absolute(str(given["path" if hub else "root"]))))
        return {**given, "name": os.fsencode(folder).decode(errors="backslashreplace") or "root"}

    def moved(self, root: str | None) -> Self:
        """With the images where they are now, if they have moved."""
        return self.model_copy(update={"path" if self.path else "root": root}) if root else self

    @model_validator(mode="after")
    def _packed(self) -> Self:
        if self.packed == "jpeg" and self.size is None:
            raise ValueError("data.packed=jpeg needs data.size, the length of the shorter side: give data.size=256")
        if self.packed == "jpeg" and self.storage == "device":
            raise ValueError("data.packed=jpeg is decoded from disk at every step: leave data.storage out")
        if self.storage != "auto" and "packed" not in self.model_fields_set:
            raise ValueError(f"data.storage={self.storage} is for images that are packed, and data={self.name} is not")
        return self

    @model_validator(mode="after")
    def _moments(self) -> Self:
        if (self.mean is None) != (self.std is None):
            there, lacking = ("mean", "std") if self.mean else ("std", "mean")
            raise ValueError(f"data.{there} is given without data.{lacking}: give both, or neither")
        mean, std = self.mean or [0.0], self.std or [1.0]
        if min(mean) < 0 or max(mean) > 1 or min(std) < 0.001 or max(std) > 1:
            raise ValueError(
                f"data.mean={self.mean} and data.std={self.std} are of pixels between 0 and 1, where a std is at "
                "least 0.001: divide those of pixels up to 255 by 255"
            )
        return self


class Optimizer(Component):
    OWN = Component.OWN | {"scale_lr"}

    lr: float = Field(gt=0, le=MOST_LR)
    weight_decay: float = Field(ge=0, le=MOST_LR)
    momentum: float | None = Field(None, ge=0, lt=1)
    trust_coefficient: float | None = Field(None, gt=0)
    scale_lr: bool


class Schedule(Component):
    warmup_epochs: float = Field(ge=0)
    final: float | None = Field(None, ge=0, le=1)
    milestones: list[Annotated[float, Field(ge=0)]] | None = None
    gamma: float | None = Field(None, gt=0, le=1)


Smaller = tuple[Annotated[int, Field(ge=4, le=MOST_PIXELS)], Annotated[float, Field(gt=0, lt=1)]]


class Augmentation(Component):
    """The views; unlike those of other components its keys are all known."""

    model_config = ConfigDict(extra="forbid")
    OWN = Component.OWN | {"normalize"}

    size: int | None = Field(ge=4, le=MOST_PIXELS)
    eval_size: int | None = Field(ge=4, le=MOST_PIXELS)
    smaller: list[Smaller] | None = Field(None, min_length=1)
    eval_crop: float = Field(1.0, gt=0, le=1)
    crop: list[float] = Field(min_length=2, max_length=2)
    flip: float = Field(ge=0, le=1)
    jitter: list[float] = Field(min_length=4, max_length=4)
    jitter_p: float = Field(ge=0, le=1)
    gray: float = Field(ge=0, le=1)
    blur: float = Field(ge=0, le=1)
    blur_sigma: list[float] = Field(min_length=2, max_length=2)
    solarize: float = Field(ge=0, le=1)
    normalize: bool

    @field_validator("crop")
    @classmethod
    def _crop(cls, crop: list[float]) -> list[float]:
        if not 0 < crop[0] <= crop[1] <= 1:
            raise ValueError(
                f"augment.crop={crop} should be [least, largest] share of the image, 0 < least <= largest <= 1"
            )
        return crop

    @field_validator("blur_sigma")
    @classmethod
    def _blur_sigma(cls, sigma: list[float]) -> list[float]:
        if not 0.001 <= sigma[0] <= sigma[1] <= 1e6:
            raise ValueError(f"augment.blur_sigma={sigma} should be [least, largest] in pixels, from 0.001 to 1e6")
        return sigma

    @field_validator("jitter")
    @classmethod
    def _jitter(cls, jitter: list[float]) -> list[float]:
        if min(jitter) < 0 or jitter[3] > 0.5:
            raise ValueError(f"augment.jitter={jitter} should be four strengths of at least 0, hue at most 0.5")
        return jitter

    @field_validator("smaller")
    @classmethod
    def _smaller(cls, smaller: list[tuple[int, float]] | None) -> list[tuple[int, float]] | None:
        shares = [share for _, share in smaller or ()]
        if shares != sorted(set(shares)):
            raise ValueError(
                f"augment.smaller={[list(one) for one in smaller or ()]} should be [[pixels, until], ...] with shares of the "
                "training that grow, such as [[16, 0.5], [20, 0.8]]"
            )
        return smaller

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if too_large := [pixels for pixels, _ in self.smaller or () if self.size and pixels >= self.size]:
            raise ValueError(
                f"augment.smaller has views of {too_large[0]} pixels, which are to be smaller than augment.size={self.size}"
            )
        return self

    @model_validator(mode="after")
    def _eval_crop(self) -> Self:
        if self.eval_crop < 1 and self.eval_size is None:
            raise ValueError(
                f"augment.eval_crop={self.eval_crop} needs augment.eval_size, to which that square is resized: give its pixels"
            )
        return self


CHOOSING = ("grid", "fewshot")  # the probes that try a grid of settings


def keys_of_other_probes(name: object) -> frozenset[str]:
    """The keys that the probe of this name has no use for."""
    of_grids = {"lrs", "weight_decays", "held_out", "draws"}
    if name not in CHOOSING:
        return frozenset(of_grids | ({"schedule", "milestones"} if name == "cached" else set()))  # which has a cosine
    of_one = Probe.model_fields.keys() - {"name", "epochs", "batch_size"} - of_grids
    return frozenset(of_one | ({"draws"} if name == "grid" else set()))


class Probe(Section):
    """Linear evaluation; of the keys after batch_size those that its choice needs."""

    name: Literal["augmented", "cached", "moco", "simclr", "grid", "fewshot"]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float | None = Field(None, gt=0, le=MOST_LR)
    weight_decay: float | None = Field(None, ge=0, le=MOST_LR)
    lrs: list[Annotated[float, Field(gt=0, le=MOST_LR)]] | None = Field(None, min_length=1)
    weight_decays: list[Annotated[float, Field(ge=0, le=MOST_LR)]] | None = Field(None, min_length=1)
    held_out: float | None = Field(None, gt=0, le=0.5)
    draws: int | None = Field(None, ge=1)
    scale_lr: bool | None = None
    momentum: float | None = Field(None, ge=0, lt=1)
    nesterov: bool | None = None
    schedule: Literal["constant", "cosine", "step"] | None = None
    milestones: list[Annotated[float, Field(ge=0)]] | None = None
    init_std: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _together(self) -> Self:
        needed = ["lrs", "weight_decays", "held_out"] if self.chooses else ["lr", "weight_decay"]
        needed += ["draws"] if self.name == "fewshot" else []
        if missing := [f"probe.{key}" for key in needed if getattr(self, key) is None]:
            raise ValueError("\n".join(f"{key} is missing: give {key}=..." for key in missing))
        if self.nesterov and not self.momentum:
            raise ValueError("probe.nesterov=true needs a probe.momentum above 0: give one, or probe.nesterov=false")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError(
                "probe.milestones belong to probe.schedule=step: give both, or probe.milestones=null and another schedule"
            )
        return self

    @property
    def chooses(self) -> bool:
        """Whether it tries a grid of settings and chooses one."""
        return self.name in CHOOSING

    def settings(self) -> dict[str, Json]:
        """What was set, for files: keys without a value are left out."""
        found: dict[str, Json] = self.model_dump(exclude_none=True)
        return found


class Tracking(Section):
    """Where the run is mirrored; None is what the environment says, see moco.tracking.environment.effective."""

    name: Literal["wandb", "none"]
    mode: Literal["offline", "online"] | None = None
    project: str | None = Field(default=None, min_length=1)
    entity: str | None = Field(default=None, min_length=1)
    group: str | None = Field(default=None, min_length=1, max_length=128)
    tags: list[str] | None = None

    @field_validator("project", "entity")
    @classmethod
    def _as_wandb_takes_it(cls, name: str | None, about: ValidationInfo) -> str | None:
        if name and (len(name) > 128 or set(name) & set("/\\#?%:")):
            said = name if len(name) <= 128 else f"{name[:20]}..."
            raise ValueError(
                f"tracker.{about.field_name}={said} is refused by W&B: give at most 128 characters, none of them / \\ # ? % :"
            )
        return name

    @field_validator("tags")
    @classmethod
    def _tags(cls, tags: list[str] | None) -> list[str] | None:
        for tag in tags or ():
            if not 1 <= len(tag) <= 64:
                raise ValueError(
                    f"tracker.tags has a tag of {len(tag)} characters ({tag[:20]}...): W&B takes 1 to 64 of them"
                )
        return tags


class Recipe(Section):
    """What a recipe's source reports, for the row beside ours; numbers in percent."""

    name: str
    source: str | None = None
    knn: list[float | None] | None = None
    linear: list[float | None] | None = None
    note: str | None = None


class Config(Section):
    """The root keys. Groups follow them."""

    METHOD_KEYS: ClassVar[tuple[str, ...]] = ("temperature", "m", "feature_dim", "momentum")  # see Method
    COMPONENTS: ClassVar[tuple[str, ...]] = ("method", "model", "data", "optimizer", "schedule")

    temperature: float | None = Field(gt=0, description="softmax temperature of the contrastive loss")
    m: int | None = Field(ge=0, description="negatives: queue size (moco) or samples from the bank (npid, 0 = all)")
    feature_dim: int | None = Field(ge=1, description="dimensions of the projection head's output")
    momentum: float | None = Field(
        ge=0, le=1, description="share of the old in the key encoder (moco), of the new in the memory bank (npid)"
    )
    k: int = Field(ge=1, description="neighbours that vote in kNN")
    knn_temperature: float = Field(gt=0, description="temperature of the votes' weights; apart from the loss's")
    batch_size: int = Field(ge=2, description="images per step; an epoch's last images that fill no batch are left out")
    epochs: int = Field(ge=1, description="passes over the training images")
    seed: int = Field(ge=0, le=MOST_SEED, description="of weights, data order and views")
    precision: Literal["auto", "fp32", "bf16"] = Field(description="auto: bf16 where the hardware is fast at it")
    compile: bool = Field(description="torch.compile for the backbone (costs a minute at the start)")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="images that pass the network at a time on a device: less memory, more time, the same run",
    )
    device: str = Field(pattern=DEVICE, description="auto, cpu, cuda, cuda:1 or mps")
    eval_every: int = Field(ge=1, description="epochs between kNN evaluations; the last epoch always has one")
    checkpoint_minutes: float = Field(
        ge=0, description="at most so much work is lost to a kill; 0 = save at every step"
    )
    linear_eval: bool = Field(description="linear evaluation (group probe) at the end of training")
    runs_dir: RunsDir = Field(description="where the runs' folders lie")
    rerun: bool = Field(description="start over, even if the run is done; what was there is replaced")
    method: Method
    model: Model
    data: Data
    augment: Augmentation
    optimizer: Optimizer
    schedule: Schedule
    probe: Probe
    tracker: Tracking
    recipe: Recipe | None
    version: Literal[1] = Field(1, exclude=True)  # VERSION; written by `frozen`

    @model_validator(mode="after")
    def _together(self) -> Self:
        """Rules over several keys: no job of a sweep is to find these."""
        if problems := list(self._contradictions()):
            raise ValueError("\n".join(problems))
        return self

    def _contradictions(self) -> Iterator[str]:
        for key in self.METHOD_KEYS:
            used, value = key in self.method.model_fields_set, getattr(self, key)
            if used and value is None:
                yield f"method={self.method.name} needs a value for {key}"
            elif used and getattr(self.method, key) != value:
                copy = getattr(self.method, key)
                yield f"method.{key}={copy} is a copy of the root key: give {key}={copy}"
        splits, warmup = self.method.splits, self.schedule.warmup_epochs
        if splits and self.batch_size % splits:
            yield f"batch_size={self.batch_size} is not a multiple of method.splits={splits}: give another, or method.splits=1"
        group = self.batch_size // (splits or 1)
        if (
            self.micro_batch
            and self.micro_batch < self.batch_size
            and self.micro_batch % group
            and self.model.has_batch_norm
        ):
            yield (
                f"micro_batch={self.micro_batch} is not a multiple of {group}, the images over which BatchNorm takes "
                "statistics (batch_size / method.splits): give one, or more method.splits"
            )
        if self.method.name == "moco" and self.m == 0:
            yield "m=0 leaves method=moco without a queue: give at least 1 (npid takes 0 for its whole bank)"
        if self.data.packed == "jpeg" and not (self.augment.size and self.augment.eval_size):
            yield "data.packed=jpeg keeps images of several sizes: give augment.size=224 and augment.eval_size=224"
        if warmup >= self.epochs:
            yield f"schedule.warmup_epochs={warmup} leaves nothing of epochs={self.epochs}: give fewer, or more epochs"
        if any(milestone < warmup for milestone in self.schedule.milestones or ()):
            yield (
                f"schedule.milestones={self.schedule.milestones} should come after the warm-up of {warmup} epochs: "
                "give later ones, or a shorter schedule.warmup_epochs"
            )

    def frozen(self) -> dict[str, Json]:
        """What a run's folder keeps: every key that was given, with the schema's version; rerun is an order, not a part."""
        given: dict[str, Json] = self.model_dump(by_alias=True, exclude_unset=True)
        return {"version": VERSION, **given, "rerun": False}

    def evaluation(self) -> "OwnData":
        """The linear evaluation that `linear_eval=true` asks for."""
        return OwnData(
            run=None,
            sweep=None,
            runs_dir=self.runs_dir,
            device=self.device,
            seed=self.seed,
            rerun=False,
            probe=self.probe,
            tracker=self.tracker,
        )

    @classmethod
    @functools.cache
    def as_before(cls) -> dict[str, Json]:
        """The values under which keys that were added later change nothing, by dotted key."""
        return {**_defaults(cls), **ARGUMENTS_AS_BEFORE}


def _defaults(schema: type[BaseModel], prefix: str = "") -> dict[str, Json]:
    """The defaults of a schema's keys and those of its sections."""
    found: dict[str, Json] = {}
    for name, field in schema.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _defaults(field.annotation, f"{key}.")
        elif not field.is_required():
            found[key] = field.get_default()
    return found


class DataRoot(Section):
    """Where a linear evaluation finds the images of its run."""

    root: Place | None = Field(default=None, description="where the run's images lie now, if they have moved")


class LinearEval(Section):
    """Keys of linear_eval.py, whatever the classifier is fitted to."""

    run: str | None = Field(description="id or folder of a finished run")
    sweep: str | None = Field(description="a sweep: each of its finished runs that lacks it, through hydra/launcher")
    runs_dir: RunsDir = Field(description="where the runs' folders lie")
    device: str = Field(pattern=DEVICE, description="auto, cpu, cuda, cuda:1 or mps")
    seed: int = Field(ge=0, le=MOST_SEED, description="of the classifier, its data order and views")
    rerun: bool = Field(description="evaluate again where it has been done")
    probe: Probe
    tracker: Tracking

    @property
    def protocol(self) -> Protocol:
        """By which it scores, the first where there are several."""
        return LINEAR_PROTOCOLS[self.probe.name]

    @property
    def root(self) -> str | None:
        """Where the run's images lie now, if they have moved."""
        return None


class OwnData(LinearEval):
    """On the data set that the run was trained on."""

    data: DataRoot = DataRoot()

    @property
    def root(self) -> str | None:
        return self.data.root


class OtherData(LinearEval):
    """On another data set, which the frozen backbone has not seen: transfer."""

    data: Data = Field(
        description="other images than the run's; with weights: images; data.root=... alone: where the run's have moved"
    )

    @property
    def protocol(self) -> Protocol:
        return super().protocol.on(str(self.data.name))


class WeightsEval(OtherData):
    """Of weights that somebody else has trained: they become a run of their own, whose data this is."""

    weights: Place = Field(
        description="a file of weights trained elsewhere, with model=... data=...: by the same ruler"
    )
    model: Model = Field(description="with weights: what takes them")
    augment: Augmentation = Field(
        description="with weights: eval_size, eval_crop and normalize, as they were trained for"
    )
    k: int = Field(ge=1, description="with weights: neighbours that vote in kNN")
    knn_temperature: float = Field(gt=0, description="with weights: temperature of the votes' weights")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="with weights: auto, bf16 where hardware is fast at it"
    )

    @property
    def protocol(self) -> Protocol:
        return LINEAR_PROTOCOLS[self.probe.name]

    def frozen(self, sha256: str, model: Model) -> dict[str, Json]:
        """What the folder of these weights keeps as its configuration: nothing of a training, which `thaw` makes up for.

        Args:
            model: with what was read off the weights.
        """
        name = os.path.basename(self.weights).split(".")[0][:LONGEST] or "weights"
        left_out = {"run", "sweep", "weights", "rerun", "model"}
        given = self.model_dump(by_alias=True, exclude_unset=True, exclude=left_out) | {"seed": 0}
        method = {"name": name, "_target_": WEIGHTS, "sha256": sha256}
        section = model.model_dump(by_alias=True, exclude_unset=True)
        return {"version": VERSION, "method": method, "model": section, **given, "rerun": False}

    def of_run(self, run: str) -> OwnData:
        """The linear evaluation of these weights once they are a run."""
        given = {name: getattr(self, name) for name in LinearEval.model_fields}
        place = self.data.path or self.data.root
        root = place if place and os.path.isabs(place) else None  # a name on the hub is no place
        return OwnData(**given | {"run": run, "data": DataRoot(root=root)})
