"""Jobs: what they ask for, how they are sent, awaited, named when they fail, and found again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest

from earlib.book import rerun as book
from earlib.errors import UserError
from earlib.jobs import executors
from earlib.jobs.needs import Asked, Needs, minutes_of, needs_of
from earlib.runs import append_line, read_lines
from earlib.sweeps import workers
from earlib.sweeps.plan import load_sweeps
from earlib.sweeps.run import sweep

from .synthetic import Does, write_manifest, write_notebook
from .test_sweep import TINY, row_of, write_sweeps

# ---------------------------------------------------------------- what a job asks for


def test_a_job_asks_for_what_its_profile_needs():
    """The mini models ask for no GPU: on a cluster that has none, asking for one is refused."""
    assert (needs_of("mini", 2).gpus, needs_of("test", 1).cpus) == (0, 1)
    one, seven = needs_of("janus-pro-1b", 2), needs_of("janus-pro-7b", 2)
    assert one.gpus == seven.gpus == 1 and 8 <= one.memory < 16 < seven.memory < 48
    asked = Asked("slurm", partition="long", gpus=2, minutes=90)
    set_in_manifest = {"time": "8:00:00", "gres": "gpu:a100:1", "mem": "64G", "partition": "short"}
    assert one.but(Asked("slurm"), set_in_manifest).minutes == 480
    mine = one.but(asked, set_in_manifest)
    assert (mine.gpus, mine.minutes) == (2, 90), "the command line is over the manifest"
    assert dict(mine.options) == {"mem": "64G", "partition": "long"}
    assert str(Needs(minutes=30, alone=True)) == "1 core, 4 GB, no GPU, 30 min, alone"


@pytest.mark.parametrize(
    "text, minutes", [("90", 90), ("0:30", 1), ("2:30:00", 150), ("1-12", 2160), ("1-0:05", 1445), ("10:01", 11)]
)
def test_times_are_slurm_s(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["0", "two hours", "1:2:3:4", "-5", "2h", ""])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match="is no time; give minutes"):
        minutes_of(text)


def test_flags_of_a_cluster_need_one():
    with pytest.raises(UserError, match="add --executor slurm"):
        Asked(partition="gpu")
    with pytest.raises(UserError, match="did you mean 'slurm'"):
        Asked("slrum")
    assert not Asked().as_jobs and Asked(gpus=1).as_jobs and not Asked(gpus=0).as_jobs


# ---------------------------------------------------------------- this machine's GPUs, by submitit's local executor


def test_jobs_take_the_gpus_of_this_machine_in_turn(tmp_path, monkeypatch):
    """As many at a time as there are GPUs for, each with its own; whatever fails is named with its log."""
    monkeypatch.setattr(executors, "gpus_here", lambda: [0, 1, 2])

    def sees(i: int) -> Callable:
        def look():
            (tmp_path / f"{i}-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
            time.sleep(0.3)
            return i, os.environ["CUDA_VISIBLE_DEVICES"]

        return look

    def wrong():
        print("what it printed", flush=True)
        raise UserError("no church")

    work = {f"sees {i}": sees(i) for i in range(3)}
    work |= {"wrong": wrong, "dies": lambda: os.kill(os.getpid(), signal.SIGKILL)}
    tasks = [(Does(name, "key", what), Needs()) for name, what in work.items()]
    jobs = executors.jobs(tmp_path / "jobs", Asked(gpus=1, jobs=2))
    found = {task.name: answer for task, answer in jobs.run(tasks)}
    assert [found[f"sees {i}"].value[0] for i in range(3)] == [0, 1, 2]
    assert {found[f"sees {i}"].value[1] for i in range(3)} == {"0", "1"}, "--jobs 2: the third GPU stays idle"
    assert found["wrong"].state == "failed" and found["wrong"].error.startswith("no church (job ")
    log = found["wrong"].error.split("its log: ")[1].rstrip(")")
    assert "what it printed" in Path(log).read_text()
    assert found["dies"].state == "failed" and "ended without an answer (job" in found["dies"].error
    assert not list((tmp_path / "jobs").glob("*.pkl")), "what is answered is forgotten"
    with pytest.raises(UserError, match="--gpus 4: this machine has 3 GPUs"):
        executors.jobs(tmp_path, Asked(gpus=4))


def test_notebooks_run_as_jobs_as_they_do_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(executors, "gpus_here", lambda: [0, 1])
    write_notebook(tmp_path / "notebooks" / "one.ipynb", "import os\nprint(count * rate, name, os.getcwd())")
    write_notebook(tmp_path / "notebooks" / "wrong.ipynb", "raise ValueError('no church')")
    write_manifest(tmp_path, {"name": "one"}, {"name": "wrong"})
    one, wrong = book.rerun(root=tmp_path, asked=Asked(gpus=1))
    assert (one["state"], wrong["state"]) == ("done", "failed") and "ValueError: no church" in wrong["error"]
    executed = tmp_path / "_build" / "executed" / "mini"
    assert f"1.5 church {tmp_path}" in (executed / "notebooks" / "one.ipynb").read_text()
    assert "see _build/executed/mini/failed/wrong.ipynb" in book.broken([one, wrong])
    status = json.loads((executed / "status" / "one.json").read_text())
    [here] = book.rerun(root=tmp_path, only=["one"])
    assert here == status and "is up to date" in capsys.readouterr().out, "a job's run is any run"


# ---------------------------------------------------------------- Slurm, played by four scripts


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that makes `Slurm` jobs; sbatch keeps its script, squeue shows the file `queue`."""
    refuses = "test -f {0}/refused && cat {0}/refused >&2 && exit 1; "
    for name, script in {
        "sbatch": 'cp "$1" {0}/script; ' + refuses + 'echo "Submitted batch job 47"',
        "squeue": "cat {0}/queue",
        "scancel": 'echo "$@" >> {0}/cancelled; sed -i "/^$1 /d" {0}/queue',
        "scontrol": "echo 'MaxArraySize            = 1001'",
        "srun": "exit 1",
    }.items():
        (tmp_path / name).write_text("#!/bin/sh\n" + script.format(tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def made(asked: Asked | None = None) -> executors.Slurm:
        jobs = executors.jobs(tmp_path / "jobs", asked or Asked("slurm"), "earlib-test")
        jobs.grace = 0.2
        return jobs

    return made


def answered(folder: Path, job: str, value: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{job}_0_result.pkl").write_bytes(cloudpickle.dumps(("success", value)))


def test_an_array_asks_for_little_and_names_what_was_cancelled(slurm, tmp_path, capsys):
    answered(tmp_path / "jobs", "47_0", "fine")
    (tmp_path / "queue").write_text("47_0 COMPLETED\n47_1 CANCELLED\n")  # 47_2 was cancelled before it began
    tasks = [(Does(str(i), "key", print), Needs().but(Asked("slurm", partition="long"))) for i in range(3)]
    found = {task.name: answer for task, answer in slurm(Asked("slurm", jobs=2)).run(tasks)}
    assert found["0"].value == "fine" and found["1"].state == found["2"].state == "failed"
    assert f"was cancelled (job 47_1; its log: {tmp_path}/jobs/47_1_0_log.out)" in found["1"].error
    script = (tmp_path / "script").read_text()
    for line in ("array=0-2%2", "mem=4G", "time=60", "cpus-per-task=1", "partition=long", "job-name=earlib-test"):
        assert f"#SBATCH --{line}\n" in script
    assert "gres" not in script and "gpu" not in script
    assert "sent 3 as job 47 (1 core, 4 GB, no GPU, 60 min, partition long)" in capsys.readouterr().out


def test_what_the_cluster_refuses_is_one_line(slurm, tmp_path, monkeypatch):
    (tmp_path / "refused").write_text("sbatch: error: invalid partition specified: lnog\nsbatch: error: Batch failed\n")
    with pytest.raises(UserError, match="refuses the jobs .*: invalid partition specified: lnog; Batch failed"):
        list(slurm().run([(Does("a", "key", print), Needs(gpus=1))]))
    assert "#SBATCH --gres=gpu:1\n" in (tmp_path / "script").read_text()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no `sbatch` on this machine: .* on a login node"):
        slurm()


def test_jobs_of_a_command_that_was_killed_are_found_again(slurm, tmp_path, capsys):
    """What is in the queue is awaited; what has changed since is ended and sent again; what is gone is sent again."""
    tasks = [Does(name, "key", print) for name in ("lives", "changed", "gone")]
    assert len(slurm()._send(Needs(), tasks)) == 3  # and then the command is killed
    (tmp_path / "queue").write_text("47_0 RUNNING\n47_1 PENDING\n")
    answered(tmp_path / "jobs", "47", "again")
    now = [tasks[0], replace(tasks[1], key="another")]
    answers = slurm().run([(task, Needs()) for task in now])
    task, answer = next(answers)
    assert (task.key, answer.value, answer.job) == ("another", "again", "47")
    said = capsys.readouterr().out
    assert "have changed since: 1" in said and "were sent before: 1" in said and "sent 1 as job 47" in said
    assert (tmp_path / "cancelled").read_text() == "47_1\n"
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* waits for the jobs"):
        next(slurm().run([(task, Needs())]))
    answers.close()
    assert "jobs still in the queue: 1; the same command waits for them" in capsys.readouterr().err


# ---------------------------------------------------------------- sweeps


def test_rows_that_share_a_training_are_one_job(tmp_path):
    """And rows that a killed command's job measured are added to the table, once."""
    cases = [{"recipe": "ear-shared", "settings": {"windows.length": [4, 8], "erasure.strength": [0.5, 1.0]}}]
    file = write_sweeps(tmp_path, one=TINY | {"cases": cases, "concepts": ["church"], "seeds": [0]})
    asked = load_sweeps(file)["one"].rows()
    pending = {row.key(): row for row in asked}
    work = workers.work_of_jobs(pending, tmp_path / "jobs", Asked("slurm", minutes=30))
    assert [len(task.rows) for task, _ in work] == [1, 2, 2] and work[0][1].minutes == 30

    append_line(tmp_path / "out" / "jobs" / "47_1.jsonl", row_of(asked[1]))
    for row in asked[2:]:
        append_line(tmp_path / "out" / "jobs" / "47_2.jsonl", row_of(row))
    append_line(tmp_path / "out" / "jobs" / "12.jsonl", row_of(replace(asked[1], seed=7)))  # for another command
    append_line(tmp_path / "out" / "one.jsonl", row_of(asked[0]))
    assert sweep(["one"], out=tmp_path / "out", sweeps=file, asked=Asked("slurm")) == [], "nothing is left to measure"
    table = read_lines(tmp_path / "out" / "one.jsonl")
    assert [row["key"] for row in table] == [row.key() for row in asked]
    assert os.listdir(tmp_path / "out" / "jobs") == ["12.jsonl"]


def test_a_job_writes_a_file_of_its_own_and_goes_on_in_it(tmp_path, monkeypatch):
    asked = load_sweeps(write_sweeps(tmp_path, one=TINY))["one"].rows()[:3]
    measured = []

    def answer(row):
        measured.append(row)
        return {"error": "no church"} if row is asked[2] else {"row": row_of(row)}

    monkeypatch.setattr(workers, "_with_one_thread", lambda: answer)
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "47_3")
    task = workers.Rows("t", "t", tuple(asked), tmp_path)
    append_line(tmp_path / "47_3.jsonl", row_of(asked[0]))  # before it was requeued
    assert task.work() == {asked[2].key(): "no church"} and measured == asked[1:]
    assert [row["key"] for row in read_lines(tmp_path / "47_3.jsonl")] == [row.key() for row in asked[:2]]


def test_rows_that_no_job_wrote_are_named(slurm, tmp_path):
    """A job that was found in the queue may lack a row that is asked for now: that one is sent for again."""
    asked = load_sweeps(write_sweeps(tmp_path, one=TINY))["one"].rows()[:2]
    answered(tmp_path / "jobs", "47_0", {asked[0].key(): "no church"})
    append_line(tmp_path / "jobs" / "47_1.jsonl", row_of(asked[1], seconds_measuring=1.0))
    answered(tmp_path / "jobs", "47_1", {})
    pending = {row.key(): row for row in asked}
    found = list(workers.measured_by_jobs(pending, tmp_path / "jobs", Asked("slurm")))
    assert found[0] == (asked[0], {"error": "no church"}) and found[1][1]["row"]["key"] == asked[1].key()
    assert not list((tmp_path / "jobs").glob("*.jsonl"))
