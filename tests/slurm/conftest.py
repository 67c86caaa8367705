"""Tests that need SLURM get a real one, a private cluster, which takes minutes: MOCO_REQUIRE_SLURM=1 asks for them."""

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
    if os.environ.get("MOCO_REQUIRE_SLURM") != "1":
        pytest.skip("a private SLURM cluster takes minutes: MOCO_REQUIRE_SLURM=1 runs these tests")
    if reason := missing():
        pytest.fail(f"no SLURM: {reason}")
    with Cluster(tmp_path_factory.mktemp("slurm"), max_array_size=5) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def tidy(slurm):
    """Each test finds an empty queue and two idle nodes."""
    yield
    slurm.tidy()
