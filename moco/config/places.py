"""Where this code lies: in a checkout with conf/ beside the package, or installed with conf/ inside it."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CODE = PACKAGE.parent  # what has to be on the path for `import moco`
INSTALLED = (PACKAGE / "conf").is_dir()
CONF = (PACKAGE if INSTALLED else CODE) / "conf"
