"""A method of the user's own, by README's Extend: a module and a YAML, without a temperature, outside of the checkout."""

import json
from pathlib import Path

from common import ROOT, TINY, python

MODULE = '''
from torch import nn


class SimSiam(nn.Module):
    """arXiv 2011.10566, section 3: no negatives, no temperature, and no feature_dim either."""

    views = 2

    def __init__(self, encoder, *, hidden_dim=8):
        super().__init__()
        self.encoder, d = encoder, encoder.num_features
        self.head = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d))
        self.predictor = nn.Sequential(nn.Linear(d, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, d))

    def forward(self, x1, x2, index):
        z1, z2 = (self.head(self.encoder(x)).float() for x in (x1, x2))
        pairs = (self.predictor(z1), z2.detach()), (self.predictor(z2), z1.detach())
        return 1 - sum(nn.functional.cosine_similarity(p, z).mean() for p, z in pairs) / 2
'''
YAML = """
# @package _global_
temperature: null
m: null
momentum: null
feature_dim: null
method:
  name: simsiam
  _target_: own_methods.SimSiam
  hidden_dim: 16
"""


def test_a_users_method_without_a_temperature(tmp_path: Path) -> None:
    (tmp_path / "own_methods.py").write_text(MODULE)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "simsiam.yaml").write_text(YAML)
    words = [str(ROOT / "train.py"), "--config-dir", "conf", "method=simsiam", *TINY]
    done = python(*words, "epochs=1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("runs/simsiam-small-digits-*/result.json")
    assert json.loads(path.read_text())["knn/top1"] > 20
    refused = python(*words, "temperature=0.1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (
        refused.returncode == 1
        and "temperature=0.1 is not used by method=simsiam: leave temperature out" in refused.stderr
    )
    table = python("-m", "moco", "table", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert table.returncode == 0 and "simsiam" in table.stdout
