"""Linear evaluation of a finished run: python linear_eval.py run=<id or folder>."""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from moco import config, jobs, runs


@hydra.main(version_base="1.3", config_path="conf", config_name="linear_eval")
def main(cfg: DictConfig) -> float:
    """Returns the linear top-1 in percent."""
    composed = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(composed, dict)
    return jobs.run_or_exit(lambda: evaluate(config.check(composed, config.LinearEval)))


def evaluate(cfg: dict) -> float:
    """Finds the run and probes it."""
    if cfg["run"] is None:
        raise config.UserError("run is missing: give the id or folder of a finished run, run=<id>")
    run = runs.find(cfg["runs_dir"], str(cfg["run"]))
    result = jobs.linear_eval(
        run, cfg["probe"], cfg["tracker"], device=cfg["device"], seed=cfg["seed"], rerun=cfg["rerun"]
    )
    return result[f"{jobs.LABELS[cfg['probe']['name']]}/top1"]


if __name__ == "__main__":
    config.register_help(config.LinearEval)
    jobs.run_or_exit(lambda: config.check_words(sys.argv[1:], config.LinearEval))
    main()
