"""What Hydra makes of a word. Imports nothing, for rooms that load neither Hydra nor pydantic."""

import re

NO_TEXT = re.compile(r"[\d_.]+(e[+-]?\d+)?|null|true|false|nan|inf", re.IGNORECASE)  # what it does not take for text
