"""What comes with the package: recipes, job scripts, starters, the Horovod builder and a few showers.

In a checkout they are its top-level folders. A build puts them into the wheel (setup.py), below ``PACKAGED``. A file of
the user's own of the same name wins.
"""

import glob
import os
from importlib.resources import files
from pathlib import Path

from dist_calo.errors import ConfigError
from dist_calo.values import unknown

PACKAGED = "packaged"
"""Folder of the installed package that holds them."""
SAMPLES = ("data/sample/*.h5", "data/layers/*.h5", "data/signals/signals_electrons.h5")
"""Showers of the recipes, the first those of a recipe that names none; a wheel has some of the first alone."""


def resource(name: str) -> Path:
    """Return the path of a file or folder that comes with the package, such as ``slurm/train_cpu.sh``."""
    package = Path(str(files("dist_calo")))
    installed = package / PACKAGED
    return (installed if installed.is_dir() else package.parent) / name


def recipes(folder: str = "configs") -> dict[str, Path]:
    """Return the files of settings of a folder by name; those of ``configs`` are trainings."""
    return {path.stem: path for path in sorted(resource(folder).glob("*.yaml"))}


def recipe(name: str, folder: str = "configs") -> str:
    """Return the path of the settings that a user names: a file, or else a recipe that comes with the package.

    ``lcd_fast``, ``lcd_fast.yaml`` and ``configs/lcd_fast.yaml`` name the same recipe. Any other path is returned as it
    is, for its reader to refuse.

    Raises:
        ConfigError: if it looks like the name of a recipe and is none.
    """
    parent, base = os.path.split(name)
    if (os.path.exists(name) and not os.path.isdir(name)) or parent not in ("", folder):
        return name
    known = recipes(folder)
    if found := known.get(base.removesuffix(".yaml")):
        return str(found)
    if parent or not base or "." in base:
        return name
    raise ConfigError(
        f"{unknown('file and no such recipe', name, known)}; the recipes are {', '.join(known)}"
    )


def shower_pattern(pattern: str) -> str:
    """Return a path or glob of shower files, or the package's own that a recipe means where nothing here has the name.

    A path that only a user can have given is left as it is: other showers in its place would train another model.
    """
    if pattern not in SAMPLES or _names_some(pattern):
        return pattern
    packaged = str(resource(pattern))
    return packaged if _names_some(packaged) else pattern


def described_showers(pattern: str) -> str:
    """Return a path or glob of shower files in words, which say where the package's own stand in."""
    found = shower_pattern(pattern)
    return found if found == pattern else f"{found} (of the package: nothing here is named {pattern})"


def _names_some(pattern: str) -> bool:
    return next(glob.iglob(pattern, recursive=True), None) is not None
