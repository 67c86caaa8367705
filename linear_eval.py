"""Linear evaluation of a finished run or of a sweep: python linear_eval.py run=<id or folder>; sweep=<name>."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moco.config import schema as config
from moco.config.compose import show_help
from moco.errors import UserError
from moco.launch import plan as launching
from moco.runs import run as runs
from moco.runs.sweep import Sweep
from moco.training import pretrain as jobs


@hydra.main(version_base="1.3", config_path="conf", config_name="linear_eval")
def main(cfg: DictConfig) -> float | None:
    """Returns the linear top-1 in percent of the one run."""
    composed = OmegaConf.to_container(cfg, resolve=True)
    return jobs.run_or_exit(lambda: evaluate(config.check(composed, config.LinearEval)))


def evaluate(cfg: dict) -> float | None:
    """Probes the run, or launches the sweep's tasks."""
    if (cfg["run"] is None) == (cfg["sweep"] is None):
        raise UserError("run is missing: give the id or folder of a finished run, run=<id>, or sweep=<name>")
    if cfg["sweep"]:
        options: dict = OmegaConf.to_container(HydraConfig.get().launcher)  # type: ignore[assignment]
        del options["_target_"]
        ends = launching.launch(
            launching.linear_tasks(cfg), options, Sweep(cfg["runs_dir"], cfg["sweep"]), rerun=cfg["rerun"]
        )
        if code := launching.exit_code(ends):
            sys.exit(code)
        return None
    run = runs.find(cfg["runs_dir"], str(cfg["run"]))
    result = jobs.linear_eval(run, **{key: cfg[key] for key in ("probe", "tracker", "device", "seed", "rerun")})
    return result[f"{runs.LABELS[cfg['probe']['name']]}/top1"]


if __name__ == "__main__":
    config.register_help(config.LinearEval)
    jobs.run_or_exit(lambda: config.check_words(sys.argv[1:], config.LinearEval))
    show_help("linear_eval", sys.argv[1:])
    main()
