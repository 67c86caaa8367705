"""Where a run stands, as it is read off the disk and corrected by SLURM's queue."""

import enum


class State(enum.StrEnum):
    """The states of a run; as text they are what people read."""

    PENDING = "pending"  # not begun, or something is left to do
    QUEUED = "queued"  # waits in SLURM's queue
    STARTING = "starting"  # a job loads torch and does not hold the run yet; said by status alone, which looks at jobs
    RUNNING = "running"
    PAUSED = "paused"  # at a rung of successive halving, with a checkpoint
    DONE = "done"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    STOPPED = "stopped"  # by a signal, with a checkpoint
    TIMED_OUT = "timed out"  # by the queue's time limit, with a checkpoint
    KILLED = "killed"  # without a word of its own
    PREEMPTED = "preempted"
    NODE_FAIL = "node fail"
    CANCELLED = "cancelled"
    DAMAGED = "damaged"  # a file in the folder says nonsense
    MISSING = "missing"  # a sweep names a folder that is not there

    @property
    def is_finished(self) -> bool:
        """Whether nothing more happens by itself."""
        return self not in (State.PENDING, State.QUEUED, State.STARTING, State.RUNNING)
