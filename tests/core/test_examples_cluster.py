"""The commands of docs/distributed.md and the files of examples/cluster, read by their parsers and run if possible."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from _commands import in_manifests, in_markdown, in_shell, instructions, options_of
from packaging.requirements import Requirement

from unipruning_core.cli.main import main
from unipruning_core.cli.prune import SEARCH_EXAMPLES

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
DOCUMENT = ROOT / "docs" / "distributed.md"
SKY = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
SCRIPTS = {
    "slurm": (CLUSTER / "slurm.sbatch").read_text(),
    "ascend": (CLUSTER / "ascend.sh").read_text(),
    "skypilot": SKY["run"],
}
COMMANDS = {
    "document": list(in_markdown(DOCUMENT.read_text())),
    "kubernetes": list(in_manifests(MANIFESTS)),
    **{name: list(in_shell(script)) for name, script in SCRIPTS.items()},
}
CONTAINERS = sorted(CLUSTER.glob("Containerfile.*"))
FILES = ("dual.safetensors", "run.json")


@pytest.mark.parametrize(
    "words", [words for found in (*COMMANDS.values(), in_shell(SEARCH_EXAMPLES)) for words in found], ids=" ".join
)
def test_every_command_is_understood(words):
    _, options = options_of(words)
    if words[0] == "torchrun":
        assert options.over_ranks


def test_a_command_is_found_wherever_there_is_one():
    assert sum(words[0] == "torchrun" for words in in_shell(SEARCH_EXAMPLES)) == 1
    over_ranks = [words for words in COMMANDS["document"] if words[0] == "torchrun"]
    assert len(over_ranks) == len(
        re.findall(r"^(?:torchrun .*| *)-m unipruning_core ", DOCUMENT.read_text(), re.MULTILINE)
    )
    assert {name: len(found) for name, found in COMMANDS.items() if name != "document"} == {
        **dict.fromkeys(SCRIPTS, 1),
        "kubernetes": 1,
    }


@pytest.mark.parametrize("name", ["kubernetes", *SCRIPTS])
def test_a_batch_can_be_spread_over_all_ranks(name):
    ((started, options),) = map(options_of, COMMANDS[name])
    nodes = 1 if started.nnodes == "$NODES" else int(started.nnodes)
    assert int(options.batch_size) % (nodes * int(started.nproc_per_node)) == 0


@pytest.mark.parametrize("script", [*SCRIPTS.values(), SKY["setup"]], ids=[*SCRIPTS, "setup"])
def test_the_shell_reads_every_script(script):
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("warned", "code", "finished", "requeued"),
    [(False, 0, True, False), (False, 2, False, False), (True, 1, False, True), (True, 0, True, False)],
    ids=["done", "failed", "out-of-time", "done-in-time"],
)
def test_the_job_is_put_back_only_where_its_time_ended_too_early(tmp_path, warned, code, finished, requeued):
    run, log = tmp_path / "run", tmp_path / "log"
    run.mkdir()
    done = f"touch {run}/run.json; " if finished else ""
    stands = {
        "scontrol": f'echo "$1" >> {log}; echo node0; echo node1',
        "scancel": f'echo "$1" >> {log}; kill -TERM "$(cat {tmp_path}/pid)"',
        "srun": f"trap '{done}exit {code}' TERM; echo $$ > {tmp_path}/pid; "
        + ("while :; do sleep 0.05; done" if warned else f"{done}exit {code}"),
    }
    for name, body in stands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    given = {"PATH": path, "MODEL": "m", "RUN": str(run), "SLURM_JOB_NODELIST": "n", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", CLUSTER / "slurm.sbatch"], env=given)
    if warned:
        while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()) and job.poll() is None:
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=30) == code
    told = ["show", *["--signal=TERM"] * warned, *["requeue"] * requeued]
    assert log.read_text().split() == told


def test_the_manifests_make_an_indexed_job_whose_pods_have_names():
    service, job = MANIFESTS
    (started, _), spec = options_of(COMMANDS["kubernetes"][0]), job["spec"]
    pod = spec["template"]["spec"]
    name = job["metadata"]["name"]
    assert (service["kind"], service["apiVersion"], service["spec"]["clusterIP"]) == ("Service", "v1", "None")
    assert (job["kind"], job["apiVersion"], spec["completionMode"]) == ("Job", "batch/v1", "Indexed")
    assert service["spec"]["selector"] == {"job-name": name}
    assert started.rdzv_endpoint == f"{name}-0.{service['metadata']['name']}:29500"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"] == int(started.nnodes)
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(started.nproc_per_node)
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    waits = {variable["name"]: variable["value"] for variable in container["env"]}["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    assert int(waits) < pod["terminationGracePeriodSeconds"]


def test_the_task_of_skypilot_has_as_many_nodes_and_devices_as_its_command():
    assert SKY.keys() == {"name", "resources", "num_nodes", "workdir", "volumes", "setup", "run"}
    started, _ = options_of(COMMANDS["skypilot"][0])
    assert SKY["num_nodes"] == int(started.nnodes)
    assert SKY["resources"]["accelerators"].partition(":")[2] == started.nproc_per_node


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.suffix[1:])
def test_a_container_file_copies_and_installs_what_there_is(path):
    found = instructions(path)
    assert {word for word, _ in found} <= {"FROM", "WORKDIR", "COPY", "ENV", "RUN", "CMD"}
    (image,) = [rest for word, rest in found if word == "FROM"]
    tag = image.rpartition("/")[2].partition(":")[2]
    assert tag not in ("", "latest")
    copied = {name for word, rest in found if word == "COPY" for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert {"setup.py", "pyproject.toml", "README.md", "backends", "kernels", "unipruning", "unipruning_core"} <= copied
    ((_, install),) = [(word, rest) for word, rest in found if word == "RUN"]
    (wanted,) = [word.strip("'") for word in install.partition("pip install -c /tmp/pair.txt ")[2].split()]
    extras = Requirement(wanted.replace(".", "unipruning", 1)).extras
    assert extras <= set(metadata("unipruning").get_all("Provides-Extra"))


def test_there_is_a_container_file_for_each_kind_of_device():
    assert [path.suffix for path in CONTAINERS] == [".ascend", ".cuda"]


def on_two_ranks(words, home, out, *more):
    """The document's command for one node, with two ranks and a tiny model, as torchrun takes it."""
    known = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "8": ["2"]}
    known |= {"MODEL": [str(home / "model")], "RUN": [str(out)]}
    launcher, command = words[: words.index("-m")], words[words.index("-m") :]
    return [part for word in (*launcher, *more, *command) for part in known.get(word, [word])] + [*calibration(home)]


def calibration(home):
    short = ("--samples", "40", "--seq-len", "8", "--save-every", "2samples")
    return ("--data", str(home / "text.txt"), *short, "--dtype", "float32", "--backend", "cpu")


@pytest.fixture(scope="module")
def alone(home, tmp_path_factory):
    """The run folder that one process makes."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main(["search", str(home / "model"), "--out", str(out), "--batch-size", "2", *calibration(home)]) == 0
    return out


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_the_command_for_one_node_gives_what_one_process_does(home, alone, tmp_path):
    words = on_two_ranks(COMMANDS["document"][0], home, tmp_path / "run")
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("run folder ")
    assert same(alone, tmp_path / "run")


def rank_of(launcher, rank):
    """The process of a rank that a launcher started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}" in (stat.parent / "environ").read_text().split("\0"):
                return int(stat.parent.name)
        except (OSError, ValueError):  # ended in the meantime
            continue
    raise AssertionError(f"rank {rank} is not there")


def test_torchrun_starts_a_search_anew_when_a_rank_is_killed(home, alone, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    words = on_two_ranks(COMMANDS["document"][0], home, out, "--max-restarts", "1")
    with log.open("w") as told:
        launcher = subprocess.Popen(words, stdout=told, stderr=told, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while not list(out.glob("unfinished/resume-*/state.json")) and launcher.poll() is None:
            time.sleep(0.01)
        try:
            os.kill(rank_of(launcher.pid, 1), signal.SIGKILL)
            code = launcher.wait(timeout=300)
        finally:
            launcher.terminate()  # which ends its ranks too
    assert code == 0, log.read_text()
    assert "resuming after sample" in log.read_text()
    assert same(alone, out)
