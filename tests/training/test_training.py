"""The loop and the checkpoint: a resumed run is the run that was not interrupted, and what goes wrong loses nothing."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moco.augment import views as augment
from moco.config.schema import Config
from moco.errors import UserError
from moco.evaluation import linear_probe
from moco.models import SmallResNet
from moco.protocols import KNN, LINEAR, LINEAR_CACHED, LINEAR_GRID, LINEAR_MOCO, Protocol
from moco.runs.lease import Stopped
from moco.runs.run import Run
from moco.runs.state import State
from moco.training import trainer
from moco.training.components import Components
from moco.training.evaluation import evaluation
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train, trainable
from moco.training.trainer import Trainer

Make = Callable[..., Config]
PER_EPOCH = 1437 // 64


def only(config: Config) -> Run:
    """The one run under the configuration's runs_dir."""
    [folder] = [p.parent for p in Path(config.runs_dir).glob("*/config.json")]
    return Run(folder)


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int, by: int = signal.SIGTERM, of: Any = trainer) -> None:
    """Sends the signal to this process right after those steps' seeds are drawn, so in the middle of the step."""
    draw, stream = of.step_seed, {trainer: "step", linear_probe: "probe step"}[of]
    left = set(steps)

    def drawn(seed: int, name: str, step: int) -> int:
        if name == stream and step in left:
            left.discard(step)
            signal.raise_signal(by)
        return draw(seed, name, step)

    monkeypatch.setattr(of, "step_seed", drawn)


def content(run: Run) -> dict[str, Any]:
    return torch.load(run.checkpoint, weights_only=True)


def assert_equal(a: Any, b: Any) -> None:
    """Bit for bit, through dicts and lists."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


GROWING = ["optimizer=muon", "augment.size=8", "augment.smaller=[[5,0.3],[6,0.7]]"]


@pytest.mark.parametrize(
    "method, words",
    [
        ("moco", []),
        ("simclr", []),
        ("npid", []),
        ("barlow_twins", []),
        ("moco", ["micro_batch=32"]),
        ("simclr", GROWING),
        ("moco", GROWING),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(
    method: str, words: list[str], tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words if words == GROWING else [*words, "optimizer=adam"]
    whole = tiny(method, *words, f"runs_dir={tmp_path}/whole")
    train(whole)
    cut = tiny(method, *words, f"runs_dir={tmp_path}/cut")
    with monkeypatch.context() as patch:
        # in the first epoch, at its last step, at the first step of the second, and at the very last but one
        stop_at(patch, 3, PER_EPOCH - 1, PER_EPOCH, 2 * PER_EPOCH - 2)
        for stops in range(4):
            with pytest.raises(Stopped):
                train(cut)
            assert only(cut).state() == "stopped", stops
    train(cut)
    one, other = content(only(whole)), content(only(cut))
    assert one.pop("seconds") > 0 and other.pop("seconds") > 0
    assert_equal(one, other)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in only(c).metrics()] for c in (whole, cut)]
    assert lines[0] == lines[1] and [line["epoch"] for line in lines[0]] == [1, 2]
    results = [{k: v for k, v in only(c).result.items() if k not in ("seconds", "finished")} for c in (whole, cut)]
    assert results[0] == results[1]


def test_killed_run_repeats_only_what_came_after_the_checkpoint(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny("moco", f"runs_dir={tmp_path}/whole")
    train(whole)
    cut = tiny("moco", f"runs_dir={tmp_path}/cut", "checkpoint_minutes=0")
    draw, steps = trainer.step_seed, []

    def drawn(seed: int, stream: str, step: int) -> int:
        if stream == "step":
            steps.append(step)
            if len(steps) == PER_EPOCH + 5:
                raise MemoryError("as sudden as a kill: nothing is saved on the way out")
        return draw(seed, stream, step)

    monkeypatch.setattr(trainer, "step_seed", drawn)
    with pytest.raises(MemoryError):
        train(cut)
    assert only(cut).state() == "out of memory"
    train(cut)
    assert steps == [*range(PER_EPOCH + 5), *range(PER_EPOCH + 4, 2 * PER_EPOCH)]
    assert_equal(content(only(whole))["method"], content(only(cut))["method"])


def test_done_run_is_not_trained_again_unless_asked(
    tiny: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = train(tiny())
    run = only(tiny())
    first = run.checkpoint.stat().st_mtime_ns
    assert train(tiny()) == value and run.checkpoint.stat().st_mtime_ns == first
    assert "is done: kNN" in capsys.readouterr().out
    assert train(tiny("moco", "rerun=true")) == value
    assert run.checkpoint.stat().st_mtime_ns > first and run.config.rerun is False


def test_rerun_forgets_an_unfinished_attempt(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stopped):
            train(tiny())
    steps: list[int] = []
    draw = trainer.step_seed
    monkeypatch.setattr(
        trainer, "step_seed", lambda s, stream, n: (stream == "step" and steps.append(n), draw(s, stream, n))[1]
    )
    train(tiny("moco", "rerun=true"))
    assert steps[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_save_at_the_next_step(number: int, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 4, by=number)
    with pytest.raises(SystemExit) as stopped:
        train(tiny())
    assert stopped.value.code == 75 and content(only(tiny()))["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # restored for whoever called


def test_a_signal_in_the_last_epoch_is_obeyed_before_the_linear_evaluation(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("moco", "linear_eval=true", "probe=cached", "probe.epochs=1")
    with monkeypatch.context() as patch:
        stop_at(patch, 2 * PER_EPOCH - 1)
        with pytest.raises(Stopped):
            train(config)
    run = only(config)
    assert run.state() == State.DONE and run.attempt() == State.STOPPED
    assert KNN.top1 in run.result and LINEAR_CACHED.top1 not in run.result
    train(config)
    assert LINEAR_CACHED.top1 in run.result
    with monkeypatch.context() as patch:
        stop_at(patch, 2 * PER_EPOCH - 1)
        train(tiny("moco", "seed=1"))  # nothing is left to be stopped


def test_what_goes_on_is_the_command_without_rerun(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        ([], "the same command goes on"),
        (["rerun=true"], "the same command without rerun=true goes on"),
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, 4)
            with pytest.raises(Stopped):
                train(tiny("moco", *words))
        assert said in capfd.readouterr().err


def test_sigterm_inside_slurm_saves_and_goes_on(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    saved: list[int] = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self: (saved.append(self.step), save(self))[1])
    stop_at(monkeypatch, 4)
    train(tiny())
    assert saved == [5, 2 * PER_EPOCH]


def test_nan_stops_with_its_step_and_keeps_the_last_good_checkpoint(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny("moco", "checkpoint_minutes=0")
    draw, good = trainer.step_seed, {}

    def drawn(seed: int, stream: str, step: int) -> int:
        if stream == "step" and step == 7:
            good.update(content(only(cfg)))
            monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, *_: logits.sum() * float("nan"))
        return draw(seed, stream, step)

    monkeypatch.setattr(trainer, "step_seed", drawn)
    with pytest.raises(UserError, match=r"infinite or NaN at step 8: try a lower optimizer.lr"):
        train(cfg)
    assert only(cfg).state() == "failed"
    assert_equal(content(only(cfg)), good)
    assert good["step"] == 7


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_unusable_checkpoint_is_named_and_kept(damage: str, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stopped):
            train(tiny())
    run = only(tiny())
    if damage == "other":
        saved = content(run)
        saved["method"]["queue"] = torch.zeros(3, 128)
        torch.save(saved, run.checkpoint)
    else:
        run.checkpoint.write_bytes(run.checkpoint.read_bytes()[: 2000 if damage == "cut" else 0])
    before = run.checkpoint.read_bytes()
    with pytest.raises(UserError, match=rf"{run.checkpoint} (is damaged|does not fit).*it is kept.*rerun=true"):
        train(tiny())
    assert run.checkpoint.read_bytes() == before
    with pytest.raises(UserError, match="not done: train it to its end first"):
        linear_eval(run, tiny().evaluation())


def test_full_disk_keeps_the_checkpoint_before(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[int] = []
    save = torch.save

    def filling(what: Any, file: Any) -> None:
        saves.append(what["step"])
        save(what, file)
        if len(saves) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", filling)
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        train(tiny("moco", "checkpoint_minutes=0"))
    run = only(tiny())
    assert content(run)["step"] == 2 and not list(run.folder.glob(".checkpoint*"))


def test_numbers_that_the_data_is_too_small_for_write_nothing(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        train(tiny("moco", "batch_size=2000", "k=1500"))
    assert "at most 1437" in str(error.value) and len(str(error.value).splitlines()) == 2
    with pytest.raises(UserError, match="m=2000 is more than the 1437 training images"):
        train(tiny("npid", "m=2000"))
    with pytest.raises(UserError, match="no setting foo: it takes"):
        train(tiny("moco", "+optimizer.foo=3"))
    with pytest.raises(UserError, match="device=cuda:7 is not here"):
        train(tiny("moco", "device=cuda:7"))
    assert not (tmp_path / "runs").exists()


def test_best_epoch_is_kept_beside_the_last(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([{"knn/top1": 50.0, "knn/top5": 90.0}, {"knn/top1": 40.0, "knn/top5": 91.0}])
    monkeypatch.setattr("moco.training.evaluation.evaluation", lambda *_: lambda: next(scores))
    assert train(tiny()) == 40.0
    result = only(tiny()).result
    assert result["knn/top1"] == 40.0 and result["best"] == {"knn/top1": 50.0, "epoch": 1}


def test_stopped_linear_evaluation_goes_on(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By augmented views, stopped twice; with other settings, or asked to start over, the checkpoint does not count."""
    config = tiny("moco", "probe.epochs=3", "probe.batch_size=500")  # three steps per epoch
    train(config)
    run, asked = only(config), config.evaluation()
    want = linear_eval(run, asked)
    run.write_result({key: value for key, value in run.result.items() if not key.startswith("linear")})
    drawn = []
    with monkeypatch.context() as patch:
        stop_at(patch, 1, 5, of=linear_probe)
        draw = linear_probe.step_seed
        patch.setattr(linear_probe, "step_seed", lambda *of: drawn.append(of[1:]) or draw(*of))
        for _ in range(2):
            with pytest.raises(Stopped):
                linear_eval(run, asked)
            assert run.state() == State.DONE and run.attempt() == State.STOPPED
        assert linear_eval(run, asked) == want
    assert [step for stream, step in drawn if stream == "probe step"] == [*range(9)]
    assert not list(run.folder.glob("probe_*.pt"))
    again = asked.model_copy(update={"rerun": True})
    with monkeypatch.context() as patch:
        stop_at(patch, 1, of=linear_probe)
        with pytest.raises(Stopped):
            linear_eval(run, again)
    other = again.model_copy(update={"probe": asked.probe.model_copy(update={"lr": 0.5})})
    assert linear_eval(run, other) != want


def test_a_linear_evaluation_is_kept_until_its_numbers_are_on_disk(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("moco", "epochs=1", "probe.epochs=3", "probe.batch_size=500")  # three steps per epoch
    train(config)
    run, asked = only(config), config.evaluation()
    with monkeypatch.context() as patch:
        stop_at(patch, 6, of=linear_probe)
        with pytest.raises(Stopped):
            linear_eval(run, asked)

    def full(*_: object) -> None:
        raise UserError("result.json cannot be written")

    drawn = list[tuple[Any, ...]]()
    draw = linear_probe.step_seed
    monkeypatch.setattr(linear_probe, "step_seed", lambda *of: drawn.append(of[1:]) or draw(*of))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
        patch.setattr(Run, "write_result", full)
        linear_eval(run, asked)
    linear_eval(run, asked)
    assert [step for stream, step in drawn if stream == "probe step"] == 2 * [7, 8]
    assert LINEAR.top1 in run.result and not list(run.folder.glob("probe_*.pt"))


def test_a_result_that_was_removed_comes_back_from_the_checkpoint(tiny: Make) -> None:
    """To remove it is what a damaged one is refused with."""
    config = tiny("moco", "epochs=1", "linear_eval=true", "probe=cached", "probe.epochs=1")
    train(config)
    run = only(config)
    before = {key: value for key, value in run.result.items() if "/" in key}
    assert {KNN.top1, LINEAR_CACHED.top1} <= before.keys()
    (run.folder / "result.json").unlink()
    train(config)
    assert {key: value for key, value in run.result.items() if "/" in key} == before
    for name in ("result.json", "metrics.jsonl"):
        (run.folder / name).unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl has no epoch, though .*: give rerun=true"):
        train(config)


def test_settings_of_a_linear_evaluation_that_is_there_are_told(tiny: Make, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["epochs=1", "linear_eval=true", "probe=cached"]
    train(tiny("moco", *words, "probe.epochs=1"))
    assert "was done with" not in capsys.readouterr().err
    train(tiny("moco", *words, "probe.epochs=2"))
    assert "linear evaluation (cached) was done with probe.epochs=1: python linear_eval.py" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", [LINEAR, LINEAR_CACHED, LINEAR_MOCO, LINEAR_GRID])
def test_linear_evaluation_joins_the_result_and_leaves_the_backbone_alone(protocol: Protocol, tiny: Make) -> None:
    lr = "probe.lrs=[0.02]" if protocol is LINEAR_GRID else "probe.lr=0.02"
    config = tiny("moco", f"probe={protocol.probe}", "probe.epochs=5", lr, "linear_eval=true")
    train(config)
    run = only(config)
    assert 10 < run.result[protocol.metric(1)] <= run.result[protocol.metric(5)] <= 100
    assert run.metrics()[-1][protocol.top1] == run.result[protocol.top1]
    before, value = run.checkpoint.read_bytes(), run.result[protocol.top1]
    assert linear_eval(run, config.evaluation().model_copy(update={"rerun": True})) == value
    assert run.result[protocol.top1] == value and run.checkpoint.read_bytes() == before


@pytest.mark.parametrize("words", [[], ["augment.eval_size=12"], ["augment.size=6", "augment.eval_size=12"]])
def test_views_of_linear_evaluation_are_as_large_as_the_images_it_is_tested_on(words: list[str], tiny: Make) -> None:
    parts = Components(tiny("moco", *words), "cpu")
    images = parts.data.train_images[:4]
    assert parts.probe_views()(images).shape == parts.views().clean(images).shape


def test_validation_holds_training_images_out(tiny: Make) -> None:
    cfg = tiny("moco", "data.validation=0.1")
    train(cfg)
    result = only(cfg).result
    assert result["evaluated_on"] == "validation"
    assert result["train_images"] + result["test_images"] == 1437 and 140 <= result["test_images"] <= 147


def test_step_learning_rates_reach_the_optimizer(tiny: Make) -> None:
    cfg = tiny("moco", "optimizer.scale_lr=true", "optimizer.lr=0.4", "schedule.warmup_epochs=1")
    train(cfg)
    lrs = [line["train/lr"] for line in only(cfg).metrics()]
    assert lrs[0] == pytest.approx(0.4 * 64 / 256) and 0 < lrs[1] < 0.01 * lrs[0]


def test_the_network_sees_views_that_grow(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = SmallResNet.forward

    def looked(self: SmallResNet, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(x.shape[-1])
        return forward(self, x)

    monkeypatch.setattr(SmallResNet, "forward", looked)
    train(tiny("simclr", *GROWING))
    steps = 2 * PER_EPOCH
    expected = [5 if step / steps < 0.3 else 6 if step / steps < 0.7 else 8 for step in range(steps)]
    assert seen == expected


def test_compiled_run_is_the_same_run(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    whole = torch.nn.Module.compile

    def traced(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        whole(module, backend="eager")  # traced and run by torch.compile, without minutes of generating code

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    value = train(tiny("moco", f"runs_dir={tmp_path}/compiled", "compile=true"))
    assert compiled == ["SmallResNet"] * 2
    assert train(tiny("moco", f"runs_dir={tmp_path}/plain")) == value
    one, other = (content(Run(next((tmp_path / name).glob("*/config.json")).parent)) for name in ("compiled", "plain"))
    assert_equal(one["method"], other["method"])


def test_provenance_names_versions_and_hardware(tiny: Make) -> None:

    train(tiny())
    [attempt] = json.loads((only(tiny()).folder / "provenance.json").read_text())
    assert attempt["packages"]["torch"] == torch.__version__.split("+")[0] and attempt["device"] == "cpu"
    assert attempt["commit"] is None or len(attempt["commit"]) == 40


class Waits(TorchDispatchMode):
    """Notes the operations that would make the host wait for a GPU: reading a value, copying one there, sizes from data."""

    NAMES = (
        "aten._local_scalar_dense",
        "aten.lift_fresh",
        "aten.nonzero",
        "aten._to_copy.device",
        "aten.masked_select",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if str(function).startswith(self.NAMES):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def every_part(method: str, tiny: Make) -> Config:
    """A configuration whose step has all that a step can have."""
    words = ["augment.gray=0.2", "augment.blur=0.5", "augment.solarize=0.2", "augment.jitter=[0.4,0.4,0.4,0.1]"]
    return tiny(method, *words, *(["method.symmetric=true", "method.momentum_end=1.0"] if method == "moco" else []))


@pytest.mark.parametrize("method", ["moco", "simclr", "npid", "barlow_twins"])
def test_nothing_is_made_on_another_device_than_the_images(method: str, tiny: Make) -> None:
    """What would fail on a GPU alone: tensors made without a word about their device are put where they cannot be used."""
    cfg = every_part(method, tiny)
    parts = Components(cfg, "cpu")
    model, optimizer, _ = trainable(parts)
    images, index = parts.data.train_images[:64], torch.arange(64)
    augment.constant.cache_clear()
    with torch.device("meta"):
        views, probe_views = parts.views(), parts.probe_views()
        loss = model(views(images), views(images) if model.views == 2 else None, index)
        loss.backward()
        optimizer.step()
        scores = evaluation(parts, model, views)()
        probed = probe_views(images)
    assert loss.device.type == probed.device.type == "cpu" and 0 <= scores["knn/top1"] <= 100


@pytest.mark.parametrize("method", ["moco", "simclr", "npid", "barlow_twins"])
def test_no_step_waits_for_the_device(method: str, tiny: Make, tmp_path: Path) -> None:
    cfg = every_part(method, tiny)
    parts = Components(cfg, "cpu")
    model, optimizer, _ = trainable(parts)
    views, images, index = parts.views(), parts.data.train_images[:64], torch.arange(64)
    with Waits() as would:
        torch.tensor([0.5]).item()
    assert len(would.found) == 2
    for _ in range(2):  # constants are copied once, by the first
        with Waits() as waits:
            loss = model(views(images), views(images) if model.views == 2 else None, index)
            optimizer.zero_grad()
            loss.backward()
    assert waits.found == []
