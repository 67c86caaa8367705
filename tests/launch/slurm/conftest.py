"""Tests that need SLURM get a real one, a private cluster; MOCO_REQUIRE_SLURM=1 forbids to skip them where there is none."""

import os
from pathlib import Path

import pytest
from cluster import Cluster, missing


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The cluster of this session. Its job arrays hold 5 tasks at most, so that a longer sweep has to be split."""
    if reason := missing():
        (pytest.fail if os.environ.get("MOCO_REQUIRE_SLURM") == "1" else pytest.skip)(f"no SLURM: {reason}")
    with Cluster(tmp_path_factory.mktemp("slurm"), max_array_size=5) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def tidy(slurm):
    """Each test finds an empty queue and two idle nodes."""
    yield
    slurm.tidy()


@pytest.fixture
def closed(slurm):
    """A partition that takes jobs and starts none, until it is called."""
    slurm.run("scontrol", "update", "PartitionName=normal", "State=DOWN")
    opened = lambda: slurm.run("scontrol", "update", "PartitionName=normal", "State=UP")  # noqa: E731
    yield opened
    opened()
