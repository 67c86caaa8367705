"""Where this code lies: in a checkout, or installed. conf/ belongs to the package either way (moco/conf is a link to it)."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf"
CODE = PACKAGE.parent  # what has to be on the path for `import moco`
INSTALLED = not (CODE / "train.py").exists()
