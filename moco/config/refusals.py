"""Hydra's and OmegaConf's errors, which tell of search paths over many lines, in one line with the nearest choice."""

import contextlib
import os
import re
from collections.abc import Iterator

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from moco.config.check import unknown_choice, unknown_key
from moco.config.schema import Config
from moco.errors import UserError

FULL = "HYDRA_FULL_ERROR"  # Hydra raises its errors where this is set, and prints them where it is not

# What Hydra says, and how it is said here.
SAID = {
    r"Ambiguous value for argument '(.*)'": r"\1 holds several values: add -m to sweep over them, or write [...] for a list",
    r"Sweep parameters '(.*)' requires --multirun": r"\1 is a sweep: add -m",
    r"Could not append to config\. An item is already at '(.*)'\.": r"\1 is there already: leave out the +",
    r"Could not delete from config\. '(.*)' does not exist\.": r"\1 cannot be deleted: there is no such key",
    r"Could not delete from config\. The value of '(.*)' is (.*) and not (.*)\.": r"\1 is \2, not \3: give ~\1 alone",
    r"BasicSweeper does not support sweep type : INTERVAL_SWEEP": (
        "interval(...) has no points for a grid: list values, or give hydra/sweeper=optuna"
    ),
}


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Raises a UserError in place of what Hydra, OmegaConf or a resolver raises about the user's words."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(in_one_line(error)) from error
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        raise UserError(f"a group takes the name of one of its files ({error})") from error


@contextlib.contextmanager
def refusing_all() -> Iterator[None]:
    """The same around hydra.main, which prints its errors itself unless HYDRA_FULL_ERROR is set; who sets it, gets them."""
    if os.environ.get(FULL) == "1":
        yield
        return
    os.environ[FULL] = "1"
    try:
        with refusing():
            yield
    finally:
        os.environ.pop(FULL, None)


def in_one_line(error: Exception) -> str:
    """What is wrong in one line, where Hydra, OmegaConf or a resolver of the user's raised this error."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return unknown_choice(group, choice, error.options)
    text = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, OverrideParseException):
        reason = next((line for line in text if not line.startswith(("Error parsing", "See "))), "")
        return f"{error.override} is not written as key=value ({reason})"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        return _unknown(str(cause.full_key), [str(key) for key in cause.parent_node])
    if match := re.fullmatch("Error merging override (.*)", text[0]):
        return f"{match[1]}: {str(cause).splitlines()[0]}" if cause else " ".join(text)
    for pattern, said in SAID.items():
        if match := re.fullmatch(pattern, text[0]):
            return match.expand(said)
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        return f"{error.full_key}: {text[0]}"
    return " ".join(text) if text[0].startswith("Could not override") else text[0]


def _unknown(key: str, beside: list[str]) -> str:
    """Refuses a key that its section does not have; a component's may be added."""
    group, _, _ = key.rpartition(".")
    known = [f"{group}.{name}" if group else name for name in beside if not name.startswith("_")]
    if not known:
        return f"unknown key {key}: +{key}=... adds it"
    adds = f" (+{key}=... adds an argument)" if group in Config.COMPONENTS else ""
    return unknown_key(key, known) + adds
