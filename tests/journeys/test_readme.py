"""The commands of the README run one after the other as they stand, in a folder with the data of a clone.

Recipes of the folder win over those of the package, so shortened ones make the runs short; the few numbers below are
changed in the commands themselves. What needs SLURM, a launcher or set-up belongs to other tests.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dist_calo.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("make", "source", "cp", "sbatch", "salloc", "mpirun", "torchrun", "horovodrun", "srun")
"""Programs of other tests: in tests/project, tests/cluster, tests/comm and tests/training."""
SHORTER = {
    r"--launch 2 (?=.*layers_gan)": "",
    r"dist_calo\.train$": "dist_calo.train --train.max_steps=2 --train.validation_showers=50",
    r"--n 1000(000)?\b": "--n 40",
    r"(?<=bench generate )": "--batch 1 --threads 1 --seconds 0.01 --geant4-seconds 1 ",
    r"--nodes 1,2,4 --ranks 2 --mode both": "--nodes 1 --ranks 1 --mode weak --steps 2 --warmup 1 --repeats 1",
}


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [re.split(r"\s+#", line)[0].strip() for line in text.splitlines() if re.match(r"    \S", line)]


def shortened(values: dict, steps: int) -> dict:
    if "parameters" in values:
        return {**values, "trials": 1, "steps": steps, "pruner": "none"}
    train = {**values["train"], "max_steps": steps, "global_batch_size": 16, "validation_showers": 50}
    return {**values, "train": train}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in (ROOT / "configs").rglob("*.yaml"):
        own = tmp_path / path.relative_to(ROOT)
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(yaml.safe_dump(shortened(yaml.safe_load(path.read_text()), steps=2), sort_keys=False))
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_run_one_after_the_other(folder):
    found = commands()
    assert len(found) > 20
    folders = re.findall(r"--checkpoint\.dir=(\S+)", " ".join(found))
    assert len(folders) == len(set(folders)), "two runs would meet in one folder"
    for command in found:
        for what, instead in SHORTER.items():
            command = re.sub(what, instead, command)
        words = shlex.split(command)
        if words[0] in ELSEWHERE:
            continue
        code = run(words)
        assert code == 0, command


def run(words: list[str]) -> int:
    """Run a command, without a process of its own where it is one of ours on one rank."""
    if "--launch" in words:
        own = Path(sys.executable).with_name(words[0])
        return subprocess.run([own, *words[1:]], timeout=300).returncode
    return main(words[1:] if words[0] == "dist-calo" else ["train", *words[3:]])
