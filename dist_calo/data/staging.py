"""Files that a job copies to the local disks of its nodes."""

import os
from contextlib import suppress
from pathlib import Path

from dist_calo.data.formats import open_file
from dist_calo.data.manifest import matching_files
from dist_calo.errors import DataError


def files_to_stage(pattern: str) -> list[str]:
    """Return the files of a glob, and the binning files beside them, where readers search for them.

    Raises:
        DataError: if the glob names no file, or files of several folders, which one folder could not hold alike, or one
            that takes data from other files.
    """
    files = matching_files(pattern)
    folders = {os.path.dirname(file) for file in files}
    if len(folders) > 1:
        raise DataError(f"{pattern} names files of {len(folders)} folders: read from where they are")
    if others := next(filter(_takes_from_others, files), None):
        raise DataError(f"{others} takes data from other files: read from where it is")
    return files + sorted(str(path) for path in Path(folders.pop() or ".").glob("*.xml"))


def _takes_from_others(path: str) -> bool:
    """Return whether a file has virtual data sets, raw files or external links."""
    import h5py

    # The command that reads a file reports that it cannot be opened.
    with suppress(DataError, KeyError, OSError, RuntimeError), open_file(path) as file:
        for name in file:
            if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
                return True
            found = file.get(name)
            if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
                return True
    return False
