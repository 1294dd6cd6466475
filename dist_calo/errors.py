"""Errors that a user can mend, and the exit codes of the commands.

Every message states the value seen, the rule that it breaks, and what to change.
"""

from dist_calo.masking import mask

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


class TrackingError(UserError):
    """A tracking store that does not exist or cannot be used as asked."""


class TrainingError(UserError):
    """Training that cannot go on, such as too many non-finite steps in a row."""


class MissingComponentError(UserError):
    """An optional component that is not installed: names what installs it."""
