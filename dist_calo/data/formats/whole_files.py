"""HDF5 files on a disk that is full."""

import errno
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the user's quota is used up, the file has reached the process's limit."""


def is_no_space(error: BaseException) -> bool:
    """Whether a file could not be written for want of space; HDF5 tells the reason in words alone at times."""
    told = re.search(r"errno = (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(told[1]) if told else None
    return number in _NO_SPACE


def abandon(file: "h5py.File") -> None:
    """Close a file whose content is not wanted any more, whether or not the disk takes it.

    HDF5 holds what it could not write, tries again when the file is closed and once more when the process ends, and
    ends that with a segmentation fault: so the rest goes where everything can be written.
    """
    with suppress(OSError, ValueError, RuntimeError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            os.dup2(nowhere, file.id.get_vfd_handle())
        finally:
            os.close(nowhere)
    with suppress(OSError, ValueError, RuntimeError):
        file.close()
