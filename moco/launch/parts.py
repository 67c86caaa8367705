"""How a sweep is cut for SLURM: points that share a job, and jobs that one call of sbatch submits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from moco.launch.job import Task


@dataclass
class Part:
    """Tasks that one call of sbatch submits.

    Attributes:
        parallel: how many of its jobs may run at a time.
        after: the part that is to end first; jobs: jobs that are to end first.
        sent: the ids of its jobs, once it was submitted.
        each: so many tasks share a job.
    """

    tasks: Sequence[Task]
    parallel: int
    after: "Part | None" = None
    jobs: Sequence[str] = ()
    sent: list[str] = field(default_factory=list)
    each: int = 1

    @property
    def groups(self) -> list[Sequence[Task]]:
        """The tasks of each job."""
        return [self.tasks[i : i + self.each] for i in range(0, len(self.tasks), self.each)]

    @property
    def dependency(self) -> str | None:
        """For sbatch: what is to end first, however it ends."""
        before = [*self.jobs, *dict.fromkeys(job.partition("_")[0] for job in (self.after.sent if self.after else []))]
        return f"afterany:{':'.join(before)}" if before else None

    def halves(self) -> "list[Part]":
        """Two parts of half its length, one after the other; what follows on this one follows on both."""
        middle = len(self.groups) // 2 * self.each
        first = replace(self, tasks=self.tasks[:middle])
        return [first, replace(self, tasks=self.tasks[middle:], after=first)]


def cut(tasks: Sequence[Task], each: int, longest: int, limit: int) -> list[Part]:
    """Arrays of at most `longest` jobs, of which no more than `limit` run at a time, all arrays together.

    Args:
        each: so many tasks share a job.
    """
    size = longest * each
    pieces = [tasks[i : i + size] for i in range(0, len(tasks), size)]
    lanes = min(len(pieces), limit)  # arrays side by side; in each lane one follows another
    parts = list[Part]()
    for n, piece in enumerate(pieces):
        parallel = limit // lanes + (n % lanes < limit % lanes)
        parts.append(Part(piece, parallel, after=parts[n - lanes] if n >= lanes else None, each=each))
    return parts
