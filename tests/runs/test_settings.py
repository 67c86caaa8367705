"""Which settings tell configurations apart."""

from moco.io import Json
from moco.runs.settings import describe, identifying, swept, varying


def flat(method: str, t: float, **more: Json) -> dict[str, Json]:
    return {"method.name": method, "momentum": {"moco": 0.99, "npid": 0.5}[method], "temperature": t, **more}


def test_what_varies_and_what_a_choice_determines() -> None:
    flats = [flat(method, t) for method in ("moco", "npid") for t in (0.1, 0.2)]
    assert varying(flats) == ["method.name", "momentum", "temperature"]
    assert swept(flats) == ["method.name", "temperature"]
    assert swept([flat("moco", 0.1, m=1), flat("moco", 0.1, m=2)]) == ["m"]
    search = [flat("moco", t, m=m) for t, m in ((0.1, 1), (0.2, 2), (0.3, 3))]
    assert swept(search) == ["temperature", "m"]  # a number determines no other setting
    names = [{"optimizer.name": o, "schedule.name": s} for o, s in (("sgd", "cosine"), ("adam", "step"))]
    assert swept(names) == ["optimizer.name"]


def test_a_setting_that_only_some_have_varies_within_its_choice() -> None:
    plain, nesterov = {"optimizer.name": "sgd"}, {"optimizer.name": "sgd", "optimizer.nesterov": True}
    assert varying([plain, nesterov]) == ["optimizer.nesterov"]
    assert varying([plain, {"optimizer.name": "adam", "optimizer.amsgrad": True}]) == ["optimizer.name"]
    assert varying([plain, {"optimizer.name": "sgd", "optimizer.nesterov": None}]) == []


def test_a_key_that_came_later_does_not_vary_where_it_is_as_before() -> None:
    early = {"method.name": "simclr", "method._target_": "moco.methods.SimCLR"}
    assert varying([early, early | {"method.splits": 1, "augment.eval_crop": 1.0}]) == []
    assert varying([early, early | {"method.splits": 2}, early | {"method.splits": 1}]) == ["method.splits"]


def test_settings_are_described_as_they_are_typed() -> None:
    flats = [
        {"method.name": "moco", "m": 512, "method.m": 512, "augment.crop": [0.2, 1.0]},
        {"method.name": "simclr", "m": None, "augment.crop": [0.08, 1.0]},
    ]
    assert describe(flats) == ["method=moco m=512 augment.crop=[0.2, 1.0]", "method=simclr augment.crop=[0.08, 1.0]"]
    assert describe(flats, ["m"]) == ["m=512", ""]


def test_what_cannot_change_the_result_is_left_out() -> None:
    kept = {"temperature": 0.1, "method.name": "moco"}
    assert identifying({**kept, "device": "cpu", "tracker.mode": "offline", "data.root": "x", "version": 1}) == kept
