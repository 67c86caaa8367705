"""python -m moco views: what the picture shows is what was drawn; its words are those of train.py."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, call
from common import ROOT
from folders import write_run
from PIL import Image

from moco.analysis import views
from moco.analysis.views_grid import COLOURS, boxed, enlarged, grid
from moco.augment import Augment
from moco.augment.crops import crop_resize
from moco.training.components import Images


def drawn(**changes) -> views.Drawn:
    return views.Drawn(crop=(1, 2, 9, 12), flip=False, jitter=None, gray=False, blur=None, solarize=False)._replace(
        **changes
    )


def test_what_was_drawn_in_words() -> None:
    assert views.described(drawn()) == ["crop 12x9 at 2,1"]
    every = drawn(flip=True, jitter=(1.2, 0.8, 1.04, -0.05), gray=True, blur=1.337, solarize=True)
    assert views.described(every) == [
        "crop 12x9 at 2,1, flipped",
        "brightness 1.20, contrast 0.80",
        "saturation 1.04, hue -18°",
        "gray, blur 1.34 px, solarized",
    ]


def test_draws_are_told_view_by_view() -> None:
    make = Augment(mean=[0.0] * 3, std=[1.0] * 3, blur=0.5, gray=0.5, solarize=0.5, jitter_p=0.5)
    draws = make.draw(40, (20, 30), torch.device("cpu"))
    found = views.each_drawn(draws)
    assert torch.equal(draws.boxes, torch.tensor([one.crop for one in found]).float())
    for name in ("flip", "gray", "solarize"):
        assert getattr(draws, name).tolist() == [getattr(one, name) for one in found]
    assert [one.blur for one in found] == [s if b else None for b, s in zip(*map(torch.Tensor.tolist, draws.blur))]
    assert draws.jitter.applied.tolist() == [one.jitter is not None for one in found]
    assert all(one.jitter in (None, tuple(row)) for one, row in zip(found, draws.jitter.factors.tolist()))
    plain = Augment(mean=[0.0] * 3, std=[1.0] * 3, gray=0.0, jitter_p=0.0).draw(9, (20, 30), torch.device("cpu"))
    assert all(one == views.Drawn(one.crop, one.flip, None, False, None, False) for one in views.each_drawn(plain))


def pixels(picture: Image.Image) -> torch.Tensor:
    """uint8 [3, H, W]"""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("words", [[], ["augment.size=12"], ["augment.normalize=false", "augment.flip=1"]])
def test_views_are_the_networks_less_the_normalisation(checked, words: list[str]) -> None:
    images = Images(checked(*QUICK, "augment.jitter=[0,0,0,0]", "augment.blur=0", *words))
    found = views.rows(images)
    assert len(found) == views.ROWS and all(len(row.views) == views.VIEWS for row in found)
    side = images.config.augment.size or 16
    for row in found:
        assert row.label in images.data.classes
        image = pixels(row.picture)
        for view in row.views:
            box, flip = view.drawn.crop, view.drawn.flip
            assert flip or words[-1:] != ["augment.flip=1"]
            [expected] = crop_resize(image[None], torch.tensor([box]).float(), torch.tensor([flip]), side)
            shown = pixels(view.picture)
            assert float((shown - expected * 255).abs().max()) <= 0.51
    again = views.rows(images)
    assert [v.picture.tobytes() for r in found for v in r.views] == [
        v.picture.tobytes() for r in again for v in r.views
    ]
    other = views.rows(Images(checked(*QUICK, "seed=1", *words)))
    assert [row.picture.tobytes() for row in other] != [row.picture.tobytes() for row in found]


def test_pixels_are_enlarged_whole_and_large_pictures_kept(tmp_path: Path) -> None:
    assert enlarged(Image.new("RGB", (16, 16))).size == (144, 144)
    assert enlarged(Image.new("RGB", (224, 224))).size == (224, 224)
    assert enlarged(Image.new("RGB", (3000, 1500))).size == (1024, 512)
    row = views.Row(Image.new("RGB", (50, 50)), "cat", [views.View(Image.new("RGB", (50, 50)), drawn())])
    box = boxed(row)  # three pixels for each
    edge = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert box.getpixel((6, 3)) == box.getpixel((41, 29)) == edge
    assert box.getpixel((4, 3)) == box.getpixel((43, 31)) == box.getpixel((20, 15)) == (0, 0, 0)
    foreign = [views.Row(row.picture, "", [views.View(row.picture, None)] * views.VIEWS)]
    assert boxed(foreign[0]).tobytes() == enlarged(row.picture).tobytes()
    assert grid(foreign, ["augment=theirs"]).size[0] > 5 * 150


def test_of_words_and_of_a_run(checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "runs", checked(*QUICK, "augment.blur=0.5"))
    words = [*QUICK, "augment.blur=0.5"]
    assert call(["views", *words[:2], "-o", "words.png", *words[2:]]) == 0
    assert call(["views", folder.name.rpartition("-")[2], "-o", "run.png"]) == 0
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said == [f"{name}.png holds 6 images with 4 views of 16 x 16 pixels each" for name in ("words", "run")]
    assert (tmp_path / "words.png").read_bytes() == (tmp_path / "run.png").read_bytes()
    with Image.open("run.png") as picture:
        assert picture.format == "PNG" and picture.width > 5 * 150
    (folder / "data.json").write_text('{"fingerprint": "other", "train_images": [3]}')
    assert call(["views", folder.name]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "was trained on other images (3 training images then" in line and line.endswith(
        "give data.root=<where they are>"
    )


def test_words_are_refused_as_train_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    compared = 0
    for line in (ROOT / "tests/bad_inputs.txt").read_text().splitlines()[::9]:
        command, *words = shlex.split(line.rpartition(" | ")[0]) or [""]
        if command != "train" or "hydra" in line or "sweep" in line or {*words} & {"Q", "-m"} or "=" not in words[0]:
            continue
        if words[0].startswith("-"):
            continue
        answers = []
        for name in ("train", "views"):
            assert call([name, *words]) not in (0, None), line
            answers.append(capsys.readouterr().err)
        assert answers[0] == answers[1], line
        compared += 1
    assert compared > 10 and list(tmp_path.iterdir()) == []


def test_moved_data_is_named(checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "old" / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (i * 40, 90, 200)).save(tmp_path / "old" / part / name / f"{i}.png")
    words = ["data=image_folder", f"data.root={tmp_path}/old", "data.name=pets", "augment.size=8"]
    folder = write_run(tmp_path / "runs", checked(*words))
    (tmp_path / "old").rename(tmp_path / "new")
    assert call(["views", folder.name]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "data.root=<where they are>" in line
    assert call(["views", folder.name, "data.root=new"]) == 0
    assert "holds 6 images with 4 views of 8 x 8 pixels" in capsys.readouterr().out
