"""A real Slurm of one node, in a folder and with ports of its own, and sweeps and notebooks through it: `make
test-slurm`. Jobs and the command that waits for them are killed on the way; table and notebooks must come out as on one
machine.

It is no unit test: it starts daemons and takes about two minutes. Debian's slurm-wlm and munge are installed if they
can be had; where they cannot, it says so and ends well.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from earlib.book.kernels import Kernels
from earlib.book.rerun import rerun
from earlib.jobs.needs import LOCAL, Asked
from earlib.sweeps.run import sweep

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("slurm-wlm", "munge")
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PICTURES = {"direct": 4, "synonym": 2, "description": 0, "held-out": 0, "compositional": 2, "indirect": 2}
PICTURES |= {"neighbours": 9, "benign": 3}
SETTINGS = {"pairs": 2, "windows.length": 8, "gate.threshold": 0.0, "erasure.strength": [0.5, 1.0]}
SWEEP = {  # 6 rows, 4 trainings: two strengths share one
    "question": "Does a cluster measure what one machine does?",
    "concepts": ["church"],
    "seeds": [0, 1],
    "pictures": PICTURES,
    "cases": [{"recipe": "ear-shared", "settings": SETTINGS}],
}
BEGAN = time.time()


class NoSlurm(Exception):
    """Why there is none here."""


def say(line: str) -> None:
    print(f"{time.time() - BEGAN:5.0f} s  {line}", flush=True)


# ---------------------------------------------------------------- Slurm


def provide() -> str:
    """Install what is missing, if it can be had; returns why it cannot, "" if it is there."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not missing:
        return ""
    if os.getuid() or not shutil.which("apt-get"):
        return f"{missing[0]} is not installed, and only root with apt-get can install it"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    said = ""
    for command in (install, ["apt-get", "update", "-q"], install):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` took longer than a minute"
        said = (done.stderr.strip().splitlines() or [""])[-1]
        if all(map(shutil.which, PROGRAMS)):
            return ""
    return f"{' and '.join(PACKAGES)} cannot be installed ({said})"


class Slurm:
    """`with Slurm(folder):` commands of Slurm reach this one; its daemons end with the block."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []

    def __enter__(self) -> Slurm:
        folder = self.folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        sockets = [socket.socket() for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        self.ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        host = platform.node().split(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
        text = CONFIGURATION.format(folder=folder, host=host, user=user, ports=self.ports)
        (folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        for variable in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_JOB", "SQUEUE_"))]:
            del os.environ[variable]
        munge = [f"--{part}={folder}/munge.{end}" for part, end in (("socket", "socket"), ("key-file", "key"))]
        munge += [f"--{part}={folder}/munge.{part[:3]}" for part in ("pid-file", "log-file", "seed-file")]
        self._start("munged", "--force", "--foreground", *munge)
        until = time.time() + 10
        while not (folder / "munge.socket").exists() and time.time() < until:
            time.sleep(0.1)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        while "idle" not in self.says("sinfo", "--noheader", "--format=%T"):
            ended = [process for process in self.daemons if process.poll() is not None]
            if ended or time.time() > until + 20:
                log = [line for file in folder.glob("*.out") for line in file.read_text().splitlines()[-1:]]
                self.__exit__()
                raise NoSlurm(f"Slurm does not start here ({'; '.join(log)})")
            time.sleep(0.3)
        return self

    def _start(self, program: str, *arguments: str) -> None:
        with open(self.folder / f"{program}.out", "w") as log:
            command = [shutil.which(program) or program, *arguments]
            self.daemons.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def __exit__(self, *error) -> None:
        self.says("scancel", f"--user={os.getuid()}")
        for process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def says(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout + done.stderr

    def queue(self) -> dict[str, str]:
        """Job -> its state, of those that have not ended."""
        return dict(line.split() for line in self.says("squeue", "-h", "-r", "--format=%i %T").splitlines())


# ---------------------------------------------------------------- the commands


class Command:
    """This file as a process of its own, in place of the command line, which has no flag for another sweeps.yml."""

    begun: list[subprocess.Popen] = []

    def __init__(self, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.one_node_slurm", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.begun.append(self.process)

    def wait_for(self, pattern: str) -> str:
        """Its next line that holds `pattern`; AssertionError if it ends without."""
        for line in self.process.stdout:
            say(f"       | {line.rstrip()}"[:260])
            if re.search(pattern, line):
                return line
        raise AssertionError(f"the command ended without saying '{pattern}'")

    def end(self) -> tuple[int, list[str]]:
        """(exit status, what it said till then)."""
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            say(f"       | {line.rstrip()}"[:260])
        return self.process.wait(), lines


def act(what: str, folder: Path, executor: str) -> int:
    """One of the commands: `sweep` or `rerun`, locally or through Slurm."""
    asked = LOCAL if executor == "local" else Asked("slurm")
    if what == "rerun":
        with Kernels(warm=False) as kernels:
            statuses = rerun(root=folder / executor, asked=asked, jobs=2, kernels=kernels)
        return int(any(status["state"] != "done" for status in statuses))
    troubles = sweep(
        out=folder / executor, sweeps=folder / "sweeps.yml", model=str(folder / "tiny"), asked=asked, jobs=2
    )
    for line in troubles:
        print(f"not measured: {line}")
    return int(bool(troubles))


def prepare(folder: Path) -> None:
    """A tiny model, a sweep, and two notebooks in a repository of their own for each executor."""
    from transformers.utils import logging

    from .conftest import tiny_janus
    from .synthetic import write_manifest, write_notebook

    logging.disable_progress_bar()
    tiny = tiny_janus()
    tiny.model.save_pretrained(folder / "tiny")
    tiny.processor.save_pretrained(folder / "tiny")
    (folder / "sweeps.yml").write_text(yaml.safe_dump({"one": SWEEP}))
    for executor in ("local", "slurm"):
        root = folder / executor
        code = "import os\nfrom earlib.runs import write_json\n"
        code += "write_json(os.environ['EARLIB_RUN'] + '/results.json', [{'metric': name, 'value': count * rate}])\n"
        code += "print(count * rate, name)"
        write_notebook(root / "notebooks" / "one.ipynb", code)
        write_notebook(root / "notebooks" / "two.ipynb", "from earlib import load_concept\nload_concept(name).name")
        write_manifest(root, {"name": "one", "parameters": {"count": 5}}, {"name": "two"})


# ---------------------------------------------------------------- what comes out


def table(folder: Path) -> list[dict]:
    """The rows of the table without what a clock measured."""
    rows = [json.loads(line) for line in (folder / "one.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]


def ran(root: Path) -> dict:
    """Of each notebook its status without seconds, its outputs and its results."""
    executed, found = root / "_build" / "executed" / "mini", {}
    for name in ("one", "two"):
        status = json.loads((executed / "status" / f"{name}.json").read_text())
        cells = json.loads((executed / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        outputs = [output.get("text") or output.get("data") for cell in cells for output in cell.get("outputs", [])]
        results = root / "runs" / "mini" / name / "results.json"
        found[name] = status | {"seconds": 0}, outputs, results.read_text() if results.exists() else None
    return found


def scenario(slurm: Slurm, folder: Path) -> None:
    """AssertionError where anything is not as on one machine."""
    first = Command("sweep", str(folder), "slurm")
    number = re.search(r"as job (\d+)", first.wait_for("sent 4 as job"))[1]
    while slurm.queue().get(f"{number}_0") != "RUNNING":
        time.sleep(0.2)
    say(f"the queue: {slurm.queue()}")
    slurm.says("scancel", f"{number}_3")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    say(f"killed: job {number}_3, which waited, and the command, by SIGKILL; the queue: {slurm.queue()}")

    second = Command("sweep", str(folder), "slurm")
    second.wait_for("sent before: 3")
    second.wait_for("sent 1 as job")
    other = Command("sweep", str(folder), "slurm").end()
    assert other[0] == 2 and "waits for the jobs" in other[1][-1], "a second command must not send them again"
    state = slurm.queue().get(f"{number}_0")
    slurm.says("scancel", f"{number}_0")
    say(f"killed: job {number}_0, which was {state}, while the command waits for it")
    status, lines = second.end()
    named = [line for line in lines if line.startswith("not measured: ")]
    log = re.search(r"its log: (\S+)\)", named[0])[1] if named else ""
    assert status == 1 and len(named) == 1 and f"cancelled (job {number}_0" in named[0] and Path(log).is_file(), named

    third = Command("sweep", str(folder), "slurm")
    third.wait_for("sent 1 as job")
    notebooks = Command("rerun", str(folder), "slurm").end()
    assert notebooks[0] == 0
    assert third.end()[0] == 0
    until = time.time() + 20
    while slurm.queue() and time.time() < until:  # the last job says its answer before it ends
        time.sleep(0.5)
    assert not slurm.queue() and not list((folder / "slurm" / "jobs").glob("*.jsonl")), "nothing is left over"

    say("the same on this machine:")
    assert Command("sweep", str(folder), "local").end()[0] == 0
    assert Command("rerun", str(folder), "local").end()[0] == 0
    there, here = table(folder / "slurm"), table(folder / "local")
    assert len(here) == 6 and there == here, "the tables differ"
    say("the 6 rows are equal, but for seconds")
    assert ran(folder / "slurm") == ran(folder / "local"), "the notebooks differ"
    say("the 2 notebooks are equal in state, key, parameters, outputs and results, but for seconds")


def main(limit: int = 900) -> int:
    """The whole run; `limit` in seconds, after which it gives up without a verdict."""

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    folder = Path(tempfile.mkdtemp(prefix="earlib-slurm-"))
    try:
        if reason := provide():
            raise NoSlurm(reason)
        prepare(folder)
        with Slurm(folder) as slurm:
            say(f"{slurm.says('slurmctld', '-V').strip()} runs in {folder}, on ports {slurm.ports}")
            scenario(slurm, folder)
    except TimeoutError:
        print(f"test-slurm gave up after {limit} s; nothing was wrong till then")
        return 0
    except NoSlurm as error:
        print(f"test-slurm is not run: {error}")
        return 0
    except AssertionError as error:
        print(f"test-slurm failed: {error}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
        for process in Command.begun:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    say("test-slurm passed")
    return 0


if __name__ == "__main__":
    from earlib.errors import UserError

    try:
        if len(sys.argv) > 2:
            sys.exit(act(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
        sys.exit(main(*map(int, sys.argv[1:])))
    except UserError as error:
        print("error:", error)
        sys.exit(2)
