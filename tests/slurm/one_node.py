"""A Slurm of this machine alone, in a folder of its own: beside any other Slurm, as whoever starts it.

    python tests/slurm/one_node.py FOLDER      # until Ctrl-C
    export SLURM_CONF=FOLDER/slurm.conf        # in another shell: sinfo, sbatch and the others then mean this one

It has two nodes, `here` and `there`, with two addresses of this machine. All it needs are Debian's packages slurm-wlm
and munge: apt-get install --no-install-recommends slurm-wlm munge.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = {"here": "127.0.0.1", "there": "127.0.0.2"}
# The nodes may have more processors than there are: the tests' jobs mostly wait.
CONFIG = """\
ClusterName=one
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=here,there Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=here,there MaxTime=INFINITE State=UP PriorityTier=2
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr={address} Port={port} CPUs=8\n"


def lacking() -> list[str]:
    """The programs that this machine has not."""
    path = os.environ["PATH"] + ":/usr/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Slurm:
    """munged, slurmctld and a slurmd a node, whose files are all in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder.resolve(), folder.resolve() / "slurm.conf"
        os.environ["PATH"] += ":/usr/sbin"
        os.environ["SLURM_CONF"] = str(self.config)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        ports = iter(free_ports(1 + len(NODES)))
        config = CONFIG.format(port=next(ports), user=getpass.getuser(), folder=self.folder)
        nodes = (NODE.format(name=name, address=address, port=next(ports)) for name, address in NODES.items())
        self.config.write_text(config + "".join(nodes))

    def start(self) -> None:
        """Start the daemons, and wait until the nodes can be used."""
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        run("munged", "--force", *(f"--{flag}={self.folder / name}" for flag, name in files.items()))
        run("slurmctld", "-c")
        for node in NODES:
            run("slurmd", "-N", node)
        self.wait_for("sinfo", "--noheader", "--format=%D %t", said=f"{len(NODES)} idle")

    def stop(self) -> None:
        """End the daemons and what they have started."""
        for job in self.ask("squeue", "--noheader", "--format=%i").split():
            subprocess.run(["scancel", job])
        for node in NODES:
            self.kill_node(node)
        for name in ("slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)

    def restart_node(self, node: str) -> None:
        """What a node's jobs see when it loses power and comes back, and Slurm has noticed that it was gone."""
        self.kill_node(node)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")
        run("slurmd", "-N", node, "-b")

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon, then what stands above its jobs, so that nothing reports their end, then the jobs."""
        jobs = self.ask("squeue", "--noheader", f"--nodelist={node}", "--format=%A").split()
        daemon = ("slurmd", "-N", node)
        for belongs in (
            lambda line, environ: line[:3] == daemon,
            lambda line, environ: line[0].startswith("slurmstepd") and line[1].strip("[]").split(".")[0] in jobs,
            lambda line, environ: any(f"SLURM_JOB_ID={job}" in environ for job in jobs),
        ):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, IndexError):  # it has ended; it is a thread of the kernel
                    environ = (process / "environ").read_text(errors="replace").split("\0")
                    line = tuple((process / "cmdline").read_text().replace("\0", " ").split())
                    if f"SLURM_CONF={self.config}" in environ and belongs(line, environ):
                        os.kill(int(process.name), signal.SIGKILL)

    def ask(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout

    def wait_for(self, *command: str, said: str, seconds: float = 300) -> None:
        """Wait until a command says what is expected, anywhere in what it says."""
        until = time.monotonic() + seconds
        while said not in (last := self.ask(*command)):
            assert time.monotonic() < until, f"{' '.join(command)}: {last!r}, not {said!r}"
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Of this machine; none that a connection may be given before it is used, or that docs/several_nodes.sh takes."""
    ports = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = 10_000 + secrets.randbelow(10_000)
            with contextlib.suppress(OSError):  # another is there
                stack.enter_context(socket.socket()).bind(("", port))
                ports.append(port)
    return ports


def run(*command: str) -> None:
    """Start a daemon, which goes into the background by itself."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Within this context, Slurm's commands mean a Slurm in this folder."""
    before = {name: os.environ.get(name) for name in ("PATH", "SLURM_CONF")}
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


if __name__ == "__main__":
    if absent := lacking():
        sys.exit(f"not here: {', '.join(absent)}: apt-get install --no-install-recommends slurm-wlm munge")
    with running(Path(sys.argv[1])), contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={Path(sys.argv[1]).resolve() / 'slurm.conf'}", flush=True)
        signal.pause()
