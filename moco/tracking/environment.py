"""What the environment says of W&B: taken where the configuration says nothing, and refused where W&B would refuse it."""

import os
from collections.abc import Mapping

from pydantic import ValidationError

from moco.config.schema import Tracking
from moco.errors import UserError
from moco.io import Json

MODES: dict[str, str | None] = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
MODES["disabled"] = None
PROJECT = "moco"
YES, NO = ("1", "true", "yes", "on", "t", "y"), ("", "0", "false", "no", "off", "f", "n")
# What this module or the mirror reads itself. Of all else wandb is asked, which takes a second to load.
READ_HERE = {"MODE", "DISABLED", "PROJECT", "ENTITY", "RUN_GROUP", "TAGS", "RUN_ID", "NAME", "SWEEP_ID"}
FREE = {"SWEEP_PARAM_PATH", "API_KEY", "BASE_URL", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR", "DIR", "NOTES", "SERVICE"}


def effective(asked: Tracking, environ: Mapping[str, str] = os.environ) -> Tracking:
    """What is asked for; where that says nothing, what WANDB_MODE, WANDB_DISABLED, WANDB_PROJECT, WANDB_ENTITY,
    WANDB_RUN_GROUP and WANDB_TAGS say, else offline and the project moco.

    Raises:
        UserError: W&B would refuse a variable.
    """
    if asked.name != "wandb":
        return asked
    given = {name: environ[f"WANDB_{name}"].strip() for name in READ_HERE if environ.get(f"WANDB_{name}", "").strip()}
    changes: dict[str, Json] = {}
    if asked.mode is None:
        mode = _mode(given)
        changes |= {"name": "none"} if mode is None else {"mode": mode}
    for key, name in (("project", "PROJECT"), ("entity", "ENTITY"), ("group", "RUN_GROUP")):
        if getattr(asked, key) is None:
            changes[key] = given.get(name, PROJECT if key == "project" else None)
    if "TAGS" in given and asked.tags is None:
        changes["tags"] = [tag.strip() for tag in given["TAGS"].split(",") if tag.strip()]
    try:
        return Tracking.model_validate(asked.model_dump() | changes)
    except ValidationError as error:
        lines = [str(problem["msg"]).removeprefix("Value error, ") for problem in error.errors()]
        raise UserError("\n".join(f"the environment's WANDB_ variables: {line}" for line in lines)) from error


def _mode(given: Mapping[str, str]) -> str | None:
    """online or offline; None where W&B is to be left out."""
    if (disabled := given.get("DISABLED", "").lower()) not in (*YES, *NO):
        raise UserError(f"WANDB_DISABLED={disabled} is neither true nor false: correct it, or unset it")
    if disabled in YES:
        return None
    if (mode := given.get("MODE", "offline").lower()) not in MODES:
        raise UserError(f"WANDB_MODE={mode} is not one of online, offline, disabled: correct it, or unset it")
    return MODES[mode]


def check_environment(asked: Tracking) -> None:
    """Refuses what wandb would refuse when a run begins.

    Raises:
        UserError: W&B would refuse a variable.
    """
    if effective(asked).name != "wandb":
        return
    names = {name.removeprefix("WANDB_") for name in os.environ if name.startswith("WANDB_")}
    if names <= READ_HERE | FREE:
        return
    import wandb

    for name in sorted(names - READ_HERE - FREE):
        variable = f"WANDB_{name}"
        try:
            wandb.Settings().update_from_env_vars({variable: os.environ[variable]})
        except (ValueError, wandb.errors.UsageError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{variable}={os.environ[variable]} is refused by wandb ({reason}): unset it") from error


def agents_run_id() -> str | None:
    """The id of the run that an agent of a W&B sweep has made for this process; alone WANDB_RUN_ID would be every run's."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
