"""Trains one run, or each of a sweep: python train.py temperature=0.1 m=4096; python train.py -m feature_dim=128,256."""

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from moco.config import schema as config
from moco.config.compose import show_help
from moco.training import pretrain as jobs


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Returns the kNN top-1 in percent, the sweeper's objective."""
    composed = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(composed, dict)
    return jobs.run_or_exit(lambda: jobs.train(config.check(composed)))


if __name__ == "__main__":
    config.register_help()
    jobs.run_or_exit(lambda: config.check_words(sys.argv[1:]))
    show_help("train", sys.argv[1:])
    main()
