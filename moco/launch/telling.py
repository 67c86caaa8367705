"""What a launcher repeats of its jobs' warnings, which stand in their logs."""

import re
import sys

from moco.protocols import GUESSED
from moco.runs.run import Run

NUMBER = re.compile(r"\d+(\.\d+)?")


class Warnings:
    """Tells a warning that many runs share once; that a run has collapsed is told of each."""

    def __init__(self) -> None:
        self.told = set[str]()  # without their numbers

    def tell(self, run: Run) -> None:
        """Prints what is new in the log of the run's job."""
        for line in run.warnings():
            words = NUMBER.sub("", line)
            if words not in self.told:
                self.told.add(words)
            elif GUESSED in line:
                line = line.partition(GUESSED)[0] + GUESSED
            else:
                continue
            print(f"    {line}", file=sys.stderr, flush=True)
