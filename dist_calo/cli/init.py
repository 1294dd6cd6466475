"""Working folder for a machine or cluster: ``dist-calo init DIR`` writes what a user edits there."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import one_line_parser
from dist_calo.errors import ConfigError
from dist_calo.resources import resource

FOLDERS = ("configs", "launch", "slurm")
README = """\
# A working folder of dist_calo

| what | for |
|---|---|
| `configs/` | recipes, to copy and change; `--config configs/NAME.yaml` |
| `slurm/site.env` | what this site wants: modules, partition, environment, MLflow server |
| `slurm/*.sh` | job scripts |
| `launch/*.sh` | starters of ranks, in a job or not |

Call everything from this folder; a run leaves its files here.

    dist-calo doctor                                                                   # can this machine train?
    dist-calo train --config configs/lcd_fast.yaml --data.path='/data/EleEscan_*.h5'   # one rank; --launch 4 for four
    sbatch -N 4 slurm/train_cpu.sh --config configs/lcd_fast.yaml                      # on four nodes
    dist-calo status                                                                   # where runs stand
"""
MASK = shutil.ignore_patterns("__pycache__", "*.pyc", "site.env")


def main(arguments: Sequence[str]) -> int:
    """Write the folder and return the exit code.

    Raises:
        ConfigError: if there is something in the folder.
    """
    parser = one_line_parser(
        "dist-calo init", "Write a working folder: configs/, slurm/, launch/ and a README."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    folder: Path = parser.parse_args(list(arguments)).folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: must be a new or empty folder, so that nothing of yours is overwritten; name another"
        )
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder that exists stays: a shell may stand in it, or a file system be mounted there.
    there = folder.exists()
    name = f".{folder.name}.{os.getpid()}.tmp"
    scratch = folder / name if there else folder.with_name(name)
    try:
        for part in FOLDERS:
            shutil.copytree(resource(part), scratch / part, ignore=MASK)
        (scratch / "README.md").write_text(README, encoding="utf-8")
        example = (scratch / "slurm/site.env.example").read_text(encoding="utf-8")
        (scratch / "slurm/site.env").write_text(with_environment(example), encoding="utf-8")
        if there:
            for part in (*FOLDERS, "README.md"):
                (scratch / part).replace(folder / part)
        else:
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        f"{folder}: edit slurm/site.env and configs/, and start jobs from there; README.md has the commands"
    )
    return 0


def with_environment(example: str) -> str:
    """Return the settings of a site, with the environment that this Python belongs to."""
    prefix = Path(sys.prefix)
    if (prefix / "bin" / "activate").exists():
        line = f"VENV={shlex.quote(str(prefix))}"
    else:
        line = f"export PATH={shlex.quote(str(prefix / 'bin'))}:$PATH"
    old = "# VENV=$HOME/dist_calo/.venv\n"
    if old not in example:
        raise ValueError(f"site.env.example has no line {old!r}")
    return example.replace(old, f"{line}\n")
