"""Errors that a user can mend, and the exit codes of the commands.

Every message states the value seen, the rule that it breaks, and what to change.
"""

import errno

from dist_calo.masking import mask

_SPACE = "free some space, or name a folder elsewhere"
_PERMISSION = "name a folder that you may write to, or have its permissions changed"
_MISSING = "make the folder, or name one that exists"
_BROKEN = "the disk or file server is at fault: ask those who run it, or name a folder elsewhere"
REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of this process (ulimit -f), or name a folder on another file system",
    errno.EROFS: "name a folder on a file system that is not mounted read-only",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOENT: _MISSING,
    errno.ENOTDIR: _MISSING,
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EIO: _BROKEN,
    errno.ESTALE: _BROKEN,
    errno.EREMOTEIO: _BROKEN,
    errno.ENOTCONN: _BROKEN,
    errno.EMFILE: "raise the number of open files (ulimit -n)",
}
"""Advice against an error of the system with a file, by its number."""
_OF_FILES_ALONE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.ESTALE,
}

EXIT_FAILURE = 1
"""An unexpected error: a traceback is printed."""
EXIT_USER = 2
"""The user can mend it: one line is printed."""
EXIT_PREEMPTED = 75
"""Stopped by a signal after a checkpoint (``EX_TEMPFAIL``): start the same command again to continue."""
EXIT_INTERRUPTED = 130
"""Ctrl-C where nothing could be saved: one line is printed."""


class UserError(Exception):
    """Bad input, shown as one line with exit code 2, without any secret that its text may hold."""

    def __init__(self, *told: object) -> None:
        super().__init__(*(mask(each) if isinstance(each, str) else each for each in told))


class ConfigError(UserError):
    """A configuration value that breaks a rule."""


class DataError(UserError):
    """A shower file that breaks a rule: names the file, the data set, the first bad row and the rule."""


class LaunchError(UserError):
    """Launcher variables that contradict each other or are half set."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or belongs to another run."""


class SpoiltCheckpointError(CheckpointError):
    """A checkpoint that is of no use to anyone any more: damaged, or with numbers that are not finite."""


class TrackingError(UserError):
    """A tracking store that does not exist or cannot be used as asked."""


class TrainingError(UserError):
    """Training that cannot go on, such as too many non-finite steps in a row."""


class MissingComponentError(UserError):
    """An optional component that is not installed: names what installs it."""


def shown(value: object) -> str:
    """Write a value as a message shows it: on one line, and cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def of_user(error: BaseException) -> UserError | None:
    """Return an error that the user can mend, such as one of the system with a file, as such; else None.

    Notes that an error of the system carries say what is valid all the same (`dist_calo.files.writing`).
    """
    if isinstance(error, UserError):
        return error
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in _OF_FILES_ALONE):
        return None
    stays = getattr(error, "__notes__", None)
    done = "used" if stays is None else "written"
    line = f"{error.filename or 'a file'} cannot be {done} ({error.strerror}): {remedy(error)}"
    return UserError("; ".join([line, *filter(None, stays or [])]))


def remedy(error: OSError) -> str:
    """Return what helps against an error of the system with a file."""
    return REMEDIES.get(error.errno or 0, "name another file or folder")
