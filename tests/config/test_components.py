"""From a section to the live object: what Hydra's users expect of `_target_` works, and a wrong argument is one line."""

import functools
from collections.abc import Callable

import pytest
import torch
from common import checked
from omegaconf import OmegaConf
from torch import nn

from moco.config.components import instantiate
from moco.config.schema import Component, Model, Optimizer, Schedule
from moco.errors import UserError

HERE = __name__


def section(text: str, kind: type[Component] = Component) -> Component:
    """The section that YAML gives."""
    return kind.model_validate(OmegaConf.to_container(OmegaConf.create(text)))


class Backbone(nn.Module):
    """A target with a constructor of its own, a nested component, and a list."""

    def __init__(self, width: int, activation: nn.Module, depths: list[int]):
        super().__init__()
        self.num_features, self.activation, self.depths = width, activation, depths

    @classmethod
    def narrow(cls, activation: nn.Module, depths: list[int], width: int = 4) -> "Backbone":
        return cls(width, activation, depths)


def with_factory(make_norm: Callable[[int], nn.Module], widths: list[int]) -> nn.Sequential:
    """A target that takes a function."""
    return nn.Sequential(*[make_norm(width) for width in widths])


def any_optimizer(**settings: object) -> torch.optim.Optimizer:
    """A target that names nothing: `params` reaches it all the same."""
    return torch.optim.SGD(**settings)  # type: ignore[arg-type]


def test_a_nested_target_is_built_first() -> None:
    made = instantiate(
        section(
            f"""
            name: mine
            _target_: {HERE}.Backbone
            width: 8
            depths: [1, 2]
            activation: {{_target_: torch.nn.LeakyReLU, negative_slope: 0.2}}
        """,
            Model,
        )
    )
    assert isinstance(made, Backbone) and made.num_features == 8
    assert isinstance(made.activation, nn.LeakyReLU) and made.activation.negative_slope == 0.2
    assert made.depths == [1, 2] and type(made.depths) is list  # a list, where OmegaConf has its own


def test_a_method_of_a_class_can_be_a_target() -> None:
    made = instantiate(
        section(
            f"""
            name: mine
            _target_: {HERE}.Backbone.narrow
            activation: {{_target_: torch.nn.ReLU}}
            depths: []
        """,
            Model,
        )
    )
    assert isinstance(made, Backbone) and made.num_features == 4


def test_a_partial_is_a_function_where_it_is_nested_and_is_completed_where_it_is_not() -> None:
    made = instantiate(
        section(
            f"""
            name: mine
            _target_: {HERE}.with_factory
            widths: [2, 3]
            make_norm: {{_target_: torch.nn.BatchNorm1d, _partial_: true, eps: 0.5}}
        """,
            Model,
        )
    )
    assert [(norm.num_features, norm.eps) for norm in made] == [(2, 0.5), (3, 0.5)]
    weight = nn.Parameter(torch.ones(2))
    text = "{name: sgd, _target_: torch.optim.SGD, _partial_: true, lr: 0.5, weight_decay: 0, scale_lr: false}"
    optimizer = instantiate(section(text, Optimizer), params=[weight])
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["params"][0] is weight


def test_a_target_with_kwargs_gets_params() -> None:
    weight = nn.Parameter(torch.ones(2))
    text = (
        f"{{name: any, _target_: {HERE}.any_optimizer, lr: 0.25, weight_decay: 0.5, scale_lr: true, nesterov: false}}"
    )
    optimizer = instantiate(section(text, Optimizer), params=[weight])
    [group] = optimizer.param_groups
    assert group["params"] == [weight] and group["params"][0] is weight
    assert (group["lr"], group["weight_decay"], group["nesterov"]) == (0.25, 0.5, False)


def test_such_an_optimizer_trains_from_the_command_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common import METHODS, TINY

    from moco.training.pretrain import train

    words = [*METHODS["simclr"], *TINY, "epochs=1", f"runs_dir={tmp_path}", f"optimizer._target_={HERE}.any_optimizer"]
    assert train(checked(*words)) > 10  # better than a guess among ten digits


def test_positional_arguments_and_conversion_mean_what_they_mean_in_hydra() -> None:
    assert instantiate(section("{name: f, _target_: fractions.Fraction, _args_: [3, 4]}")) == 0.75
    kept = instantiate(section("{name: d, _target_: builtins.dict, _convert_: none, a: [1]}"))
    assert OmegaConf.is_config(kept["a"])
    assert instantiate(section("{name: d, _target_: builtins.dict, a: [1]}")) == {"a": [1]}


def test_live_objects_are_handed_to_who_names_them_and_never_copied() -> None:
    encoder = nn.Linear(2, 2)
    encoder.num_features = 2  # type: ignore[assignment]
    method = instantiate(checked("method=simclr").method, encoder=encoder, num_images=7, steps=9)
    assert method.encoder is encoder
    text = "{name: a fraction, _target_: fractions.Fraction, numerator: 3, unused: null}"
    assert instantiate(section(text), denominator=4, epochs=9) == 0.75


def test_the_projects_own_keys_do_not_reach_the_target() -> None:
    arguments = checked("optimizer=sgd", "optimizer.scale_lr=true").optimizer.arguments()
    assert set(arguments) == {"_target_", "lr", "momentum", "weight_decay"}
    assert set(checked("data=digits").data.arguments()) == {"_target_", "size"}
    assert "normalize" not in checked().augment.arguments()


@pytest.mark.parametrize(
    "text, kind, line",
    [
        (
            "{name: sgd, _target_: torch.optim.SGD, lr: 1, weight_decay: 0, scale_lr: false, lrr: 1}",
            Optimizer,
            "sgd has no setting lrr: it takes params, lr, momentum, ",
        ),
        (
            "{name: sgd, _target_: torch.optim.SDG, lr: 1, weight_decay: 0, scale_lr: false}",
            Optimizer,
            "_target_: torch.optim.SDG cannot be imported",
        ),
        ("{name: x, _target_: no.such.place}", Component, "_target_: no.such.place cannot be imported"),
        (
            f"{{name: x, _target_: {HERE}.Backbone, width: 3}}",
            Component,
            "x: missing a required argument: 'activation', it takes width, activation, depths",
        ),
        (
            "{name: adam, _target_: torch.optim.Adam, lr: 1, weight_decay: 0, scale_lr: false, betas: [2, 1]}",
            Optimizer,
            "adam: Invalid beta parameter at index 0: 2",
        ),
        (
            f"{{name: x, _target_: {HERE}.Backbone, width: 1, depths: [], activation: {{_target_: no.such.thing}}}}",
            Model,
            "x: Error locating target 'no.such.thing'",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(text: str, kind: type[Component], line: str) -> None:
    with pytest.raises(UserError) as caught:
        instantiate(section(text, kind), params=[nn.Parameter(torch.zeros(1))])
    assert str(caught.value).startswith(line) and len(str(caught.value).splitlines()) == 1


def test_a_bug_in_a_component_of_ours_is_not_called_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(torch.nn.Linear)
    def broken(**_: object) -> None:
        [].index(1)

    monkeypatch.setattr("moco.optim.constant", lambda *, epochs, steps_per_epoch, warmup_epochs: broken())
    text = "{name: constant, _target_: moco.optim.constant, warmup_epochs: 0}"
    from moco.config import components

    components.taken_by.cache_clear()
    with pytest.raises(ValueError, match="is not in list"):
        instantiate(section(text, Schedule), epochs=1, steps_per_epoch=1)
    components.taken_by.cache_clear()
