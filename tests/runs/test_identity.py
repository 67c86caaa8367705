"""What makes a run the same run, and what makes it another; ids that stay while the code changes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from common import CHOICES, checked
from hydra.core.override_parser.overrides_parser import OverridesParser

from moco.config import schema
from moco.config.check import thaw
from moco.config.schema import Config, Method
from moco.errors import UserError
from moco.runs.identity import flatten, folder_name, identity
from moco.runs.settings import alike_but_for_seed

PACKED = ["data.packed=jpeg", "data.size=256", "augment.size=224", "augment.eval_size=224"]


@pytest.mark.parametrize(
    "one, other",
    [
        (["temperature=0.2"], ["temperature=0.20"]),
        (["knn_temperature=1"], ["knn_temperature=1.0"]),
        (["schedule.final=0"], ["schedule.final=0.0"]),
        (["augment.crop=[0.5,1]"], ["augment.crop=[0.5,1.0]"]),
        (["model=timm", "+model.drop_path_rate=1"], ["model=timm", "+model.drop_path_rate=1.0"]),
        ([], ["temperature=0.1"]),
        ([], ["model=resnet18", "epochs=200", "augment.gray=0.2"]),
        (["seed=1", "m=64"], ["m=64", "seed=1"]),
        ([], ["tracker=none"]),
        ([], ["tracker.mode=online", "tracker.project=other"]),
        ([], ["device=cpu"]),
        ([], ["runs_dir=/elsewhere"]),
        ([], ["data.root=/elsewhere"]),
        (["data=image_folder", "data.root=/a/birds"], ["data=image_folder", "data.root=/birds", "data.storage=disk"]),
        (["data=huggingface", "data.path=a/birds"], ["data=huggingface", "data.path=/birds", "data.cache=/elsewhere"]),
        ([], ["checkpoint_minutes=1"]),
        ([], ["linear_eval=true", "probe=cached"]),
        ([], ["recipe=moco_cifar"]),  # whose settings are the defaults
        (["recipe=simclr_leftthomas"], ["recipe=simclr_leftthomas", "temperature=0.5"]),
    ],
)
def test_same_run(one: list[str], other: list[str]):
    assert folder_name(checked(*one)) == folder_name(checked(*other))


def test_copies_of_root_keys_have_their_types_and_their_values():
    method = checked("temperature=1", "m=1e3", "momentum=0").method
    assert [type(getattr(method, key)) for key in ("temperature", "m", "momentum")] == [float, int, float]
    assert folder_name(checked("temperature=1")) == folder_name(checked("temperature=1.0"))
    with pytest.raises(UserError, match="method.m=64 is a copy of the root key: give m=64"):
        checked("method.m=64")


def test_another_run():
    variants = [
        [],
        ["temperature=0.2"],
        ["seed=1"],
        ["m=64"],
        ["epochs=3"],
        ["data=cifar100"],
        ["model=small"],
        ["model=small", "model.widths=[8,16]"],
        ["augment=flip"],
        ["augment.gray=0.1"],
        ["optimizer.lr=0.05"],
        ["method.symmetric=true"],
        ["schedule.warmup_epochs=1"],
        ["data.validation=0.1"],
        ["data=image_folder", "data.root=/birds"],
        ["data=image_folder", "data.root=/birds", "data.size=64"],
        ["data=image_folder", "data.root=/birds", "data.skip_corrupt=true"],
        ["data=image_folder", "data.root=/birds", *PACKED],
        ["data=huggingface", "data.path=a/birds", *PACKED],
        ["data=huggingface", "data.path=a/birds", *PACKED, "data.label=other"],
        ["method=npid"],
        *([f"recipe={choice}"] for group, choice in CHOICES if group == "recipe" and choice != "moco_cifar"),
    ]
    assert len({identity(checked(*words)) for words in variants}) == len(variants)


def test_a_recipes_settings_make_the_run() -> None:
    config = checked("recipe=simclr_cifar")
    assert identity(config.model_copy(update={"recipe": None})) == identity(
        config
    )  # its name and published numbers do not
    assert identity(checked("recipe=simclr_cifar", "method.hidden_dim=512")) != identity(config)


def test_folder_names_its_parts(tmp_path: Path):
    assert re.fullmatch(
        r"simclr-small-digits-[a-p]{10}", folder_name(checked("method=simclr", "model=small", "data=digits"))
    )
    folder = checked("data=image_folder", f"data.root='{tmp_path}/my birds'")
    assert re.fullmatch(r"moco-resnet18-my_birds-[a-p]{10}", folder_name(folder))


def test_no_id_is_taken_for_a_number():
    config = checked()
    ids = [identity(config.model_copy(update={"seed": seed})) for seed in range(300)]
    parsed = OverridesParser.create().parse_overrides([f"run={name}" for name in ids])
    assert [p.value() for p in parsed] == ids and len(set(ids)) == 300
    assert [yaml.safe_load(name) for name in ids] == ids


# Ids that stay while the code changes


def test_ids_are_those_of_the_table() -> None:
    """Runs on people's disks have these ids: lines may be added to ids.json, none may change or go."""
    table = json.loads((Path(__file__).parent / "ids.json").read_text())
    assert len(table) >= 40
    wrong = {
        words: identity(checked(*words.split())) for words in table if identity(checked(*words.split())) != table[words]
    }
    assert wrong == {}


class Longer(Method):
    """The section of a method to which a key has been added."""

    symmetry: str = "none"


class Larger(Config):
    """The schema after keys have been added: at the root, in a section, and one without a value."""

    ema_of_weights: float = 0.0
    note: str | None = None
    method: Longer


def test_a_key_that_is_added_changes_no_id_until_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = checked("recipe=quickstart").frozen()
    before = identity(thaw(frozen))
    larger = Larger.model_validate(frozen)
    assert larger.ema_of_weights == 0.0 and identity(larger) == before
    assert identity(Larger.model_validate(frozen | {"ema_of_weights": 0, "note": None})) == before
    assert identity(Larger.model_validate(frozen | {"ema_of_weights": 0.5})) != before
    for symmetry, same in (("none", True), ("full", False)):
        changed = frozen | {"method": frozen["method"] | {"symmetry": symmetry}}
        assert (identity(Larger.model_validate(changed)) == before) is same


def test_an_argument_that_is_added_to_a_component_changes_no_id_until_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = checked("recipe=quickstart").frozen()
    before = identity(thaw(frozen))
    monkeypatch.setitem(schema.ARGUMENTS_AS_BEFORE, "schedule.restarts", 1)
    Config.as_before.cache_clear()
    try:
        for restarts, same in ((1, True), (1.0, True), (2, False), (None, True)):
            changed = frozen | {"schedule": frozen["schedule"] | {"restarts": restarts}}
            assert (identity(thaw(changed)) == before) is same
    finally:
        monkeypatch.undo()
        Config.as_before.cache_clear()


def test_an_argument_that_one_class_of_a_group_gets_later_changes_no_id_of_the_others() -> None:
    """MoCo has had `splits` from the start, where 1 is a setting like others; SimCLR got it later."""
    simclr, moco = (checked("recipe=quickstart", f"method={name}").frozen() for name in ("simclr", "moco"))
    for frozen, splits, same in ((simclr, 1, True), (simclr, 2, False), (moco, 1, False), (moco, 2, False)):
        without = {key: value for key, value in frozen["method"].items() if key != "splits"}
        configs = [thaw(frozen | {"method": method}) for method in (without, without | {"splits": splits})]
        assert (identity(configs[0]) == identity(configs[1])) is same
        alike = [alike_but_for_seed(flatten(config.frozen())) for config in configs]
        assert (alike[0] == alike[1]) is same


def test_a_class_that_moves_keeps_the_ids_and_another_class_does_not() -> None:
    frozen = checked("recipe=quickstart").frozen()
    for target, same in (("elsewhere.deep.MoCo", True), ("moco.methods.MoCo", True), ("moco.methods.OtherMoCo", False)):
        changed = frozen | {"method": frozen["method"] | {"_target_": target}}
        assert (identity(thaw(changed)) == identity(thaw(frozen))) is same
    ids = [
        identity(thaw(frozen | {"model": frozen["model"] | {"activation": {"_target_": target}}}))
        for target in ("torch.nn.ReLU", "torch.nn.modules.activation.ReLU", "torch.nn.GELU")
    ]
    assert ids[0] == ids[1] != ids[2]
    assert identity(thaw(frozen)) not in ids


def test_true_is_not_one() -> None:
    frozen = checked("model=timm", "+model.pre_act=true").frozen()
    changed = frozen | {"model": frozen["model"] | {"pre_act": 1}}
    assert identity(thaw(changed)) != identity(thaw(frozen))
