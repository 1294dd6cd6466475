"""From training to an evaluation in a place that is legal and awkward: names with spaces, quotes and umlauts, data that
may only be read, no home, the C locale, no terminal, another user's umask, another working folder.

Each command is the one that the command before it printed, where it printed one.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import ROOT
from tests.support.small_runs import write_part

# Root may write everywhere: without this capability it obeys the modes of files, as users do.
LIMITS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
SETTINGS = [
    f"--config={ROOT / 'configs' / 'layers_vae_plain.yaml'}",
    "--train.global_batch_size=17",
    "--train.validation_showers=40",
    "--tracking.system_metrics=false",
    "--checkpoint.resume=auto",
]


class Place:
    """A folder with data in it, in which commands are typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "daten"
        write_part(next((ROOT / "data" / "layers").glob("*.h5")), self.data, rows=(211, 106))
        for path in (*self.data.iterdir(), self.data):
            path.chmod(path.stat().st_mode & ~0o222)

    def type(self, command: str, *, where: str = ".") -> str:
        """Run a line as a shell would without any of the user's environment, and return what it says."""
        program, *words = shlex.split(command)
        assert program == "dist-calo"
        done = subprocess.run(
            [*LIMITS, sys.executable, "-m", "dist_calo", *words],
            cwd=self.folder / where,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            umask=0o027,
            timeout=240,
        )
        said = done.stdout.decode()
        assert done.returncode == 0, f"{command}\n{said}"
        return said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place") / "Müller's Läufe [2] 100%"
    folder.mkdir()
    return Place(folder)


def advised(said: str) -> str:
    """The command that a text names between back quotes, or at the beginning of a line's second column."""
    found = re.search(r"`(dist-calo [^`]*)`", said) or re.search(r"(dist-calo .*?) makes showers", said)
    assert found, said
    return found.group(1)


def test_from_training_to_an_evaluation(place: Place) -> None:
    train = ["dist-calo", "train", *SETTINGS, "--checkpoint.dir=erste läufe", "--train.max_steps=3"]
    said = place.type(shlex.join([*train, "--data.path=daten/part_*.h5"]))
    status = place.type("dist-calo status 'erste läufe'")
    assert advised(status) == advised(said)

    place.type(advised(said).replace("FILE", "'neue schauer.h5'") + " --n 37")
    said = place.type(
        "dist-calo evaluate --real 'daten/part_0.h5' --fake 'neue schauer.h5' --out 'erste prüfung'"
    )
    assert "erste prüfung/report.html" in said

    # From another folder, by the files' whole names: the same data, the same run.
    again = ["dist-calo", "train", *SETTINGS, "--checkpoint.dir=../erste läufe", "--train.max_steps=4"]
    (place.folder / "woanders").mkdir(mode=0o750)
    store = "--tracking.uri=sqlite:///../mlflow.db"
    said = place.type(shlex.join([*again, f"--data.path={place.data}/part_*.h5", store]), where="woanders")
    assert "continuing after step 3" in said

    made = [path for path in place.folder.rglob("*") if place.data not in (path, path.parent)]
    strict = [
        path for path in made if stat.S_IMODE(path.stat().st_mode) != (0o750 if path.is_dir() else 0o640)
    ]
    assert not strict, "others of the group are to read what the umask lets them read"
