"""The two ways to send jobs, both through submitit: to a cluster's queue, or to this machine's GPUs in turn."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from .needs import Asked, Needs
from .queue import ENDED, GONE, Jobs, Task

HERE = Path(__file__).resolve().parents[2]  # where jobs find earlib
FOREVER = 60 * 24 * 365  # minutes


def jobs(folder: Path, asked: Asked, name: str = "earlib", cwd: Path = HERE) -> Jobs:
    """The jobs that `asked` is about.

    Args:
        folder: for pickles and logs.
        asked: by the command line.
        name: of the jobs, in the queue.
        cwd: where they run.

    Raises:
        UserError: submitit, Slurm or GPUs are not there.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "jobs are sent through submitit, which is not installed: pip install 'earlib[cluster]', or submitit"
        ) from None
    return Slurm(folder, asked, name, cwd) if asked.executor == "slurm" else Machine(folder, asked, name)


class Slurm(Jobs):
    """Arrays of jobs of a cluster. Whether they live is asked of `squeue`, in one call for all: accounting, which
    submitit asks, is not kept everywhere."""

    def __init__(self, folder: Path, asked: Asked, name: str = "earlib", cwd: Path = HERE):
        super().__init__(folder, asked, name)
        self.cwd = cwd
        for program in ("sbatch", "srun", "squeue"):
            if not shutil.which(program):
                raise UserError(f"no `{program}` on this machine: give the command where Slurm is, on a login node")

    def _job(self, job_id: str) -> Any:
        from submitit import SlurmJob

        return SlurmJob(self.folder, job_id)

    def _send(self, needs: Needs, tasks: list[Task]) -> list:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        options: dict[str, Any] = {"gres": f"gpu:{needs.gpus}"} if needs.gpus else {}
        options |= {"exclusive": True} if needs.alone else {}
        options |= {name.replace("-", "_"): value for name, value in needs.options}
        executor = SlurmExecutor(self.folder)
        executor.update_parameters(
            job_name=self.name,
            time=needs.minutes,
            cpus_per_task=needs.cpus,
            mem=f"{needs.memory}G",
            wckey=None,
            stderr_to_stdout=True,
            array_parallelism=self.asked.jobs or len(tasks),
            additional_parameters=options,
            setup=[
                f"cd {shlex.quote(str(self.cwd))}",
                f"export PYTHONPATH={shlex.quote(str(HERE))}${{PYTHONPATH:+:$PYTHONPATH}}",
                f"export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-{needs.cpus}}}",
                f"export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-{needs.cpus}}}",  # srun asks for one otherwise
            ],
        )
        try:
            sent = executor.submit_array(tasks[: _longest_array()])
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
            said = re.findall(r"sbatch: (?:error: )?(.*)", str(error)) or str(error).strip().splitlines()[-1:]
            raise UserError(f"sbatch refuses the jobs ({needs}): {'; '.join(dict.fromkeys(said))}") from None
        number = sent[0].job_id.split("_")[0]
        print(f"sent {len(sent)} as job {number} ({needs}); logs: {self.folder}/{number}_*_log.out", flush=True)
        return sent

    def _states(self, jobs: list) -> dict[str, str] | None:
        command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None
        states = dict(line.split(None, 1) for line in done.stdout.splitlines() if line.strip())
        return {job.job_id: states.get(job.job_id, GONE).strip() for job in jobs}

    def _end(self, jobs: list) -> None:
        subprocess.run(["scancel", *(job.job_id for job in jobs)], check=False)
        until = time.monotonic() + 120
        while time.monotonic() < until and any(state not in ENDED for state in (self._states(jobs) or {}).values()):
            time.sleep(1)
        for job in jobs:
            self._forget(job)

    def _leave(self, jobs: list) -> None:
        print(
            f"jobs still in the queue: {len(jobs)}; the same command waits for them, `scancel --name={self.name}` ends "
            "them",
            file=sys.stderr,
        )


@lru_cache
def _longest_array() -> int:
    """Jobs of one array; a cluster says so."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, flags=re.M)
    return max(1, int(found[1]) - 1) if found else 1000


class Machine(Jobs):
    """Processes of this machine, as many at a time as there are GPUs for; each sees its own GPUs only. They end with
    the command."""

    def __init__(self, folder: Path, asked: Asked, name: str = "earlib"):
        super().__init__(folder, asked, name, grace=1.0)
        here, each = gpus_here(), asked.gpus or 1
        slots = [tuple(here[i : i + each]) for i in range(0, len(here) - each + 1, each)]
        if not slots:
            raise UserError(f"--gpus {each}: this machine has {len(here)} GPUs")
        self.slots = slots[: asked.jobs]
        self.taken: dict[Any, tuple[int, ...]] = {}  # job -> its GPUs

    def _left(self) -> dict[Any, Task | None]:
        """Processes of a command that was killed are ended, as nobody knows which GPUs they have."""
        for file in self.folder.glob("*_submitted.pkl"):
            number = int(file.name.split("_")[0])
            try:
                if os.fsencode(self.folder) in Path(f"/proc/{number}/cmdline").read_bytes():
                    os.kill(number, signal.SIGINT)
                    time.sleep(2)
            except OSError:
                pass
            file.unlink(missing_ok=True)
        return {}

    def _send(self, needs: Needs, tasks: list[Task]) -> list:
        from submitit import LocalExecutor
        from submitit.core.utils import environment_variables

        self.taken = {job: slot for job, slot in self.taken.items() if not job.done()}
        sent = []
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        for task, slot in zip(tasks, [slot for slot in self.slots if slot not in self.taken.values()]):
            executor = LocalExecutor(self.folder)
            executor.update_parameters(
                gpus_per_node=len(slot), visible_gpus=slot, timeout_min=FOREVER, stderr_to_stdout=True
            )
            with environment_variables(PYTHONPATH=path):
                job = executor.submit(task)
            self.taken[job] = slot
            sent.append(job)
        return sent

    def _states(self, jobs: list) -> dict[str, str]:
        return {job.job_id: "FAILED" if job.done() else "RUNNING" for job in jobs}

    def _end(self, jobs: list) -> None:
        for job in jobs:
            job.cancel()
        until = time.monotonic() + 10
        while time.monotonic() < until and not all(job.done() for job in jobs):
            time.sleep(0.1)
        for job in jobs:
            self._forget(job)

    _leave = _end


def gpus_here() -> list[int]:
    """Numbers of the GPUs that this process may use."""
    if shown := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [int(number) for number in shown.split(",") if number.strip().isdecimal()]
    import torch

    return list(range(torch.cuda.device_count()))
