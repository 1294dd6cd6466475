"""Which files a job copies to the local disks of its nodes: ``python -m dist_calo.data.staging 'files/*.h5'``."""

import os
import sys
from pathlib import Path

from dist_calo.data.shards import matching_files
from dist_calo.errors import DataError


def files_to_stage(pattern: str) -> list[str]:
    """The files of a glob, and descriptions of binnings beside them, which readers look for there.

    Raises:
        DataError: if the glob names no file, or files of several folders, which one folder could not hold alike.
    """
    files = matching_files(pattern)
    folders = {os.path.dirname(file) for file in files}
    if len(folders) > 1:
        raise DataError(f"{pattern} names files of {len(folders)} folders: read from where they are")
    return files + sorted(str(path) for path in Path(folders.pop() or ".").glob("*.xml"))


def main(arguments: list[str]) -> int:
    """Print the names with a zero byte behind each; nothing if they cannot be staged."""
    try:
        sys.stdout.write("".join(f"{file}\0" for file in files_to_stage(arguments[0])))
    except DataError as error:
        print(f"data: not staged: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
