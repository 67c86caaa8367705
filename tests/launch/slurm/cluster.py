"""A real SLURM cluster of two nodes on one machine, alive no longer than the process that started it.

Each daemon runs in a PID namespace of its own: when the first process of one is killed, the kernel kills all the rest.
So a killed node takes its jobs with it, as in a power cut, and nothing outlives the tests. Each has its own host name
too, as on a real cluster, where the same PID on two nodes means two processes.
"""

import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import time
from datetime import datetime
from pathlib import Path

NODES = ("n1", "n2")
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv", "unshare")
NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
# The shell is the namespace's init: it reaps orphans, and ends when the daemon does.
INIT = 'set -e; hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; "$@" & wait $!'

CONF = """
ClusterName=test
SlurmctldHost=ctl(127.0.0.1)
SlurmctldPort={ctl_port}
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its last credential has expired: two minutes, unless told otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5

# Clocks, short enough for tests. A dead node is noticed in 10 to 20 s. Time limits alone stay coarse: slurmctld looks
# at them (and sends what --signal asks for, up to 30 s early) every 30 s since it started.
SlurmdTimeout=6
MessageTimeout=4
TCPTimeout=1
KillWait=5
OverTimeLimit=0
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MaxArraySize={max_array_size}
JobRequeue=1
ReturnToService=2

# Resources are counted, not fenced in by cgroups, which containers may lack. Memory is sampled each second and what
# exceeds it is killed; SLURM then calls the job FAILED, since OUT_OF_MEMORY takes a cgroup to see.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeAddr=127.0.0.1 Port={n1_port} CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeAddr=127.0.0.1 Port={n2_port} CPUs=2 RealMemory=8000 Gres=gpu:2

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


def missing() -> str | None:
    """Why no cluster can be started here, if so."""
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"not installed: {' '.join(absent)} (Debian: slurm-wlm munge)"
    if os.geteuid() != 0:
        return "a cluster of namespaces needs root"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "root may not make namespaces here (a container needs --privileged)"
    return None


def wait_until(condition, timeout: float, what: str):
    """The first true value of condition(), within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.1)
    return value


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """Nodes n1 and n2, each with 2 CPUs and 2 imagined GPUs; partition `normal`, and `urgent` which preempts it.

    Start it from the main thread: the kernel ends the daemons with the thread that started them.
    """

    def __init__(self, folder: Path, max_array_size: int = 1001):
        self.folder = Path(folder).absolute()
        self.daemons: dict[str, subprocess.Popen] = {}
        # Tests may themselves run inside a SLURM job, whose variables are not for this cluster's clients.
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))}
        self.env = {**outer, "SLURM_CONF": f"{self.folder}/slurm.conf"}
        self._write(max_array_size)

    def _write(self, max_array_size: int) -> None:
        (self.folder / "state").mkdir(parents=True)
        ctl, n1, n2 = free_ports(3)
        fields = dict(folder=self.folder, max_array_size=max_array_size, ctl_port=ctl, n1_port=n1, n2_port=n2)
        (self.folder / "slurm.conf").write_text(CONF.format(**fields))
        # SLURM wants device files; without cgroups no one opens them, so copies of /dev/null do.
        gpus = f"Name=gpu File={self.folder}/gpu[0-1]\n"
        (self.folder / "gres.conf").write_text("".join(f"NodeName={node} {gpus}" for node in NODES))
        for i in range(2):
            os.mknod(self.folder / f"gpu{i}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        names = " ".join(["localhost", "munge", "ctl", *NODES, socket.gethostname()])
        (self.folder / "hosts").write_text(f"127.0.0.1 {names}\n")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self) -> None:
        files = [f"--{file}-file={self.folder}/munge.{file}" for file in ("key", "pid", "seed")]
        socket_file = self.folder / "munge.socket"
        try:
            # By force, as the folder's parents may be closed to others.
            self._spawn("munge", "munged", "--foreground", "--force", f"--socket={socket_file}", *files)
            wait_until(socket_file.exists, 60, "munged's socket")
            self._spawn("ctl", "slurmctld", "-D", "-f", self.env["SLURM_CONF"])
            self.started = time.monotonic()
            for node in NODES:
                self.start_node(node)
            wait_until(self._up, 120, "both nodes to be idle")
        except Exception as error:
            raise RuntimeError(f"SLURM did not come up: {error}\n{self.logs()}") from error

    def _up(self) -> bool:
        ended = [host for host, daemon in self.daemons.items() if daemon.poll() is not None]
        if ended:
            raise RuntimeError(f"{' '.join(ended)} ended")
        try:
            return set(self.states().values()) == {"idle"}
        except RuntimeError:  # slurmctld does not answer yet
            return False

    def _spawn(self, host: str, *daemon: str) -> None:
        init = ("sh", "-c", INIT, "init", host, str(self.folder / "hosts"))
        with open(self.folder / f"{host}.log", "ab") as log:
            self.daemons[host] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, *init, *daemon],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        self.daemons.clear()

    def logs(self, lines: int = 15) -> str:
        tails = {log.name: log.read_text(errors="replace").splitlines()[-lines:] for log in self.folder.glob("*.log")}
        return "\n".join(f"--- {name}\n" + "\n".join(tail) for name, tail in sorted(tails.items()))

    # What tests ask of it.

    def run(self, *cmd: str, timeout: float = 120) -> str:
        """The standard output of a client's call. Always with a timeout: srun waits for ever on a drained node."""
        done = subprocess.run(cmd, env=self.env, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{' '.join(cmd)} returned {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def sbatch(self, script: str, *options: str) -> str:
        """Submits a shell script and returns the job's number."""
        return self.run(
            "sbatch", "--parsable", "--open-mode=append", f"--output={self.folder}/%j.out", "--wrap", script, *options
        )

    def job(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job (`7`) or of one task of an array (`7_1`)."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", job)))

    def wait_job(self, job: str, *states: str, timeout: float = 180) -> dict[str, str]:
        wait_until(lambda: self.job(job)["JobState"] in states, timeout, f"job {job} to be {' or '.join(states)}")
        return self.job(job)

    def output(self, job: str) -> str:
        return Path(self.job(job)["StdOut"]).read_text()

    def expire(self, job: str) -> None:
        """Lets a running job's time be up now: the shortest limit that SLURM takes is a minute."""
        self.run("scontrol", "update", f"JobId={job}", f"EndTime={datetime.now():%Y-%m-%dT%H:%M:%S}")

    def states(self) -> dict[str, str]:
        """Each node's state, with a star while the node does not answer."""
        lines = self.run("sinfo", "--Node", "--noheader", "--partition=normal", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_idle(self, timeout: float = 180) -> None:
        def idle():
            return not self.run("squeue", "--noheader") and set(self.states().values()) == {"idle"}

        wait_until(idle, timeout, "both nodes to be idle")

    def kill_node(self, node: str, noticed: bool = False) -> None:
        """Cuts a node's power. SLURM notices by itself in 10 to 20 s, or is told at once."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        if noticed:
            self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def start_node(self, node: str) -> None:
        self._spawn(node, "slurmd", "-D", "-N", node, "-f", self.env["SLURM_CONF"])

    def tidy(self) -> None:
        """Back to an empty queue and two idle nodes."""
        self.run("scancel", "--user=root")
        for node in NODES:
            if self.daemons[node].poll() is not None:
                self.start_node(node)
        self.wait_idle()
