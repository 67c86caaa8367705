"""Weights from elsewhere: a run of their own, by the same ruler as one that was trained here."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call
from common import composed
from PIL import Image
from test_lost import take_over

from moco.analysis.table import lines
from moco.config.check import check_linear_eval
from moco.config.components import instantiate
from moco.config.schema import Config, WeightsEval
from moco.errors import UserError
from moco.models import SmallResNet
from moco.protocols import KNN, LINEAR_CACHED
from moco.runs.identity import identity
from moco.runs.lease import Lost, Stopped
from moco.runs.listing import all_runs
from moco.runs.run import Run
from moco.training import evaluation
from moco.training.linear_eval import linear_eval
from moco.training.pretrain import train
from moco.training.weights import evaluate_weights, read, run_of_weights

Make = Callable[..., Config]
SAME = ["data=digits", "data.size=8", "k=5", "tracker=none", "device=cpu", "probe=cached", "probe.epochs=2"]
SMALL = ["model=small", "model.widths=[8,16]", "augment.crop=[0.5,1.0]"]


def asked(file: Path, tmp_path: Path, *words: str, typed: tuple[str, ...] = ()) -> WeightsEval:
    values = composed(f"weights={file}", f"runs_dir={tmp_path}/runs", *SAME, *words, entry="linear_eval")
    found = check_linear_eval(values, typed)
    assert isinstance(found, WeightsEval)
    return found


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_weights_score_as_the_run_that_they_are_from(form: str, tiny: Make, tmp_path: Path) -> None:
    config = tiny("simclr", "epochs=2")
    train(config)
    [own] = all_runs(tmp_path / "runs")
    neighbours = {KNN.at(k) for k in (1, 10, 20, 100, 200)}
    assert [neighbours <= line.keys() for line in own.metrics()] == [False, True]  # at the last evaluation alone
    content = torch.load(own.checkpoint, weights_only=True)["method"]
    weights = {key.removeprefix("encoder."): value for key, value in content.items() if key.startswith("encoder.")}
    file = tmp_path / f"theirs.{form}"
    if form == "pth":
        torch.save({"state_dict": {f"module.encoder_q.{key}": value for key, value in weights.items()}}, file)
    else:
        contiguous = {key: value.contiguous() for key, value in weights.items()}
        pytest.importorskip("safetensors.torch").save_file(contiguous, file)

    wanted = asked(file, tmp_path, *SMALL)
    run = run_of_weights(wanted)
    linear_eval(run, wanted.of_run(run.id))
    linear_eval(own, config.evaluation().model_copy(update={"probe": wanted.probe}))

    result, theirs = run.result or {}, own.result or {}
    names = [name for name in theirs if name.startswith(("knn/", "linear_cached/", "repr/")) and "_head" not in name]
    assert neighbours < {*names} and {name: result[name] for name in names} == {name: theirs[name] for name in names}
    assert not any("head" in name for name in result) and run.folder.name.startswith("theirs-small-digits-")
    file.unlink()  # the folder has them
    linear_eval(run, wanted.of_run(run.id).model_copy(update={"rerun": True}))
    assert run.result and run.result["linear_cached/top1"] == result["linear_cached/top1"]


def test_weights_are_no_run_on_other_images_of_the_same_name(tmp_path: Path) -> None:
    for where, seed in (("a", 0), ("b", 1)):
        for split in ("train", "test"):
            for name in ("ant", "bee"):
                (tmp_path / where / "photos" / split / name).mkdir(parents=True)
                for i in range(6):
                    pixels = np.random.default_rng([seed, i]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / where / "photos" / split / name / f"{i}{where}.png")
    torch.save(SmallResNet([8, 16]).state_dict(), tmp_path / "w.pth")
    words = [word for word in SAME if not word.startswith("data")] + [*SMALL, "data=image_folder"]

    def run_on(where: str, *more: str) -> Run:
        return run_of_weights(
            asked(tmp_path / "w.pth", tmp_path, *words, f"data.root={tmp_path}/{where}/photos", *more)
        )

    run = run_on("a")
    with pytest.raises(UserError, match="was trained on other images"):
        run_on("b")
    (tmp_path / "a").rename(tmp_path / "c")
    assert run_on("c").folder == run.folder
    wanted = asked(tmp_path / "w.pth", tmp_path, *words, f"data.root={tmp_path}/c/photos")
    linear_eval(run, wanted.of_run(run.id))  # where they are now


def test_a_name_on_the_hub_is_kept_and_a_folder_is_where_the_images_are(tmp_path: Path) -> None:
    torch.save(SmallResNet([8, 16]).state_dict(), tmp_path / "w.pth")
    words = [word for word in SAME if not word.startswith("data")] + [*SMALL, "data=huggingface"]
    roots = [
        asked(tmp_path / "w.pth", tmp_path, *words, f"data.path={path}").of_run("x").data.root
        for path in ("a/b", str(tmp_path))
    ]
    assert roots == [None, str(tmp_path)]


def after_knn(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Does something once kNN of the weights has been measured."""
    made = evaluation.evaluation

    def evaluation_of(*parts: Any, **more: Any) -> Callable[[], dict[str, float]]:
        evaluate = made(*parts, **more)

        def evaluated() -> dict[str, float]:
            scores = evaluate()
            act()
            return scores

        return evaluated

    monkeypatch.setattr(evaluation, "evaluation", evaluation_of)


def test_weights_that_lost_their_run_leave_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(SmallResNet([8, 16]).state_dict(), tmp_path / "w.pth")
    run = run_of_weights(asked(tmp_path / "w.pth", tmp_path, *SMALL))
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.name != "lease.json"}

    after_knn(monkeypatch, lambda: take_over(run))
    with pytest.raises(Lost):
        run_of_weights(asked(tmp_path / "w.pth", tmp_path, *SMALL, "rerun=true"))
    assert {path: path.read_bytes() for path in run.folder.iterdir() if path.name != "lease.json"} == before


def test_a_signal_in_the_knn_of_weights_is_obeyed_before_the_linear_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(SmallResNet([8, 16]).state_dict(), tmp_path / "w.pth")
    wanted = asked(tmp_path / "w.pth", tmp_path, *SMALL)
    with monkeypatch.context() as patch:
        after_knn(patch, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            evaluate_weights(wanted)
    [run] = all_runs(tmp_path / "runs")
    assert KNN.top1 in run.result and LINEAR_CACHED.top1 not in run.result
    assert evaluate_weights(wanted) == run.result[LINEAR_CACHED.top1]


def test_weights_are_a_row_of_the_table_without_settings_of_a_training(tmp_path: Path) -> None:
    file = tmp_path / "moco_v2_800ep.pth.tar"
    torch.manual_seed(0)
    torch.save(instantiate(asked(file, tmp_path, *SMALL).model).state_dict(), file)
    run = run_of_weights(asked(file, tmp_path, *SMALL))
    before = (run.folder / "result.json").read_bytes()
    assert run_of_weights(asked(file, tmp_path, *SMALL, "seed=3")).folder == run.folder
    assert (run.folder / "result.json").read_bytes() == before and run.config.seed == 0
    [line] = lines([run])
    assert (line.row["Protocol"], line.row["Method"], line.row["Neighbours"]) == ("kNN", "moco_v2_800ep", 5)
    assert line.row["Params"] and not any(line.row[name] for name in ("Batch", "Epochs", "Temperature", "Feature Dim"))
    other = tmp_path / "copy" / "moco_v2_800ep.pth.tar"
    other.parent.mkdir()
    shutil.copy(file, other)
    assert identity(run_of_weights(asked(other, tmp_path, *SMALL)).config) == run.id
    torch.save({**torch.load(file), "extra.head": torch.zeros(1)}, other)
    with pytest.raises(UserError, match="copy/.* does not fit model=small: it has besides extra.head"):
        run_of_weights(asked(other, tmp_path, *SMALL))
    assert [one.id for one in all_runs(tmp_path / "runs")] == [run.id]


class Code:
    """An object that a pickle brings along."""


@pytest.mark.parametrize(
    "content, said",
    [
        (
            {"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": Code()},
            "holds more than tensors, and to load that could",
        ),
        ({"epoch": 3}, "holds no tensors by name"),
        (torch.zeros(3), "holds no tensors by name"),
        (None, "is no file of weights"),
    ],
)
def test_files_without_weights_are_refused_in_a_line(content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "some.pth"
    file.write_bytes(b"not a file of torch's") if content is None else torch.save(content, file)
    with pytest.raises(UserError, match=said) as error:
        read(file)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(file))


def test_a_stem_that_was_not_typed_is_that_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "tv.pth"
    words = ["model=resnet18", "model.stem=imagenet"]
    torch.manual_seed(0)
    torch.save(instantiate(asked(file, tmp_path, *words, typed=("model.stem",)).model).state_dict(), file)
    run = run_of_weights(asked(file, tmp_path, words[0]))
    assert run.config.model.stem == "imagenet" and run.config.model.architecture == "resnet18"
    typed = asked(file, tmp_path, words[0], "model.stem=cifar", typed=("model.stem",))
    with pytest.raises(UserError, match=r"conv1.weight \(64x3x7x7, not 64x3x3x3\)"):
        run_of_weights(typed)


def test_the_command_is_on_features_unless_a_probe_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.pth"
    torch.save(instantiate(asked(file, tmp_path, *SMALL).model).state_dict(), file)
    words = [word for word in SAME if not word.startswith("probe=")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [])
    assert call(["linear-eval", "weights=some.pth", *SMALL, *words]) in (0, None)
    out, err = capfd.readouterr()
    assert "Linear (cached)" in out and "some.pth: it has all" in err
    [run] = all_runs(tmp_path / "runs")
    assert run.result and [*run.result["probes"]] == ["cached"]
