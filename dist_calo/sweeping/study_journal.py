"""The study's journal on a shared file system: Optuna's, under a lock of this package.

Optuna offers two locks for files, which know no owner: one that waits for long, for a file server that is restarted or
while it is halted itself, takes the lock of a writer that is just finishing, and a writer that lost its lock removes
that of another.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any, cast

from dist_calo.errors import ConfigError, MissingComponentError
from dist_calo.files import writing
from dist_calo.leases.short_lock import ShortLock
from dist_calo.values import value_of

_Log = make_dataclass(
    "_Log",
    [
        ("op_code", int),
        ("worker_id", str),
        *(
            (name, kind | None, None)
            for kind, names in {
                int: ("study_id", "trial_id", "state", "step"),
                float: ("param_value_internal", "intermediate_value", "value"),
                str: ("study_name", "param_name", "distribution", "datetime_start", "datetime_complete"),
                tuple[int]: ("directions",),
                tuple[float]: ("values",),
                dict[str, Any]: ("user_attr", "system_attr", "user_attrs", "system_attrs"),
            }.items()
            for name in names
        ),
    ],
)
"""The entries of Optuna's records, as far as they are known."""
_OF_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Errors that Optuna raises for records that it cannot use."""


def load_optuna() -> Any:
    """Import Optuna, without its messages.

    Raises:
        MissingComponentError: if it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingComponentError("sweeps need Optuna: pip install 'dist_calo[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class StudyJournal:
    """The file that Optuna's ``JournalStorage`` writes and reads, made if there is none.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        load_optuna()
        from optuna.storages.journal import JournalFileBackend

        self._path = name = path.absolute()
        if name.exists() and not name.is_file():
            raise ConfigError(f"{name}: is not an ordinary file; name another folder with --study")
        lock: Any = _RepairingLock(name)
        self._file = JournalFileBackend(str(name), lock_obj=lock)
        self._kept: list[dict[str, Any]] | None = None

    def storage(self) -> Any:
        """Return Optuna's storage on this journal."""
        from optuna.storages import JournalStorage

        journal = self

        class Storage(JournalStorage):
            def _sync_with_backend(self) -> None:
                try:
                    super()._sync_with_backend()
                except _OF_DAMAGE as error:
                    raise journal._damaged(self._replay_result.log_number_read, repr(error)) from None

        return Storage(cast(Any, self))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        """Yield the records that were written, from a line on.

        Raises:
            ConfigError: if a line is damaged, or the file cannot be read.
        """
        line = log_number_from + 1
        try:
            for log in self._file.read_logs(log_number_from):
                value_of(_Log, log, "")
                yield log
                line += 1
        except (ValueError, RecursionError, ConfigError) as error:
            raise self._damaged(line, str(error)) from None
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}; name another folder with --study") from error

    def _damaged(self, line: int, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path}, line {line}: is damaged ({reason[:80]}); remove that line, of which the trials then know "
            "nothing, or name another folder with --study"
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, or keep them for the end of `together`."""
        if self._kept is None:
            self._append(logs)
        else:
            self._kept += logs

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the records of a block at once, since each writing takes the lock and waits for the disk."""
        kept: list[dict[str, Any]] = []
        self._kept = kept
        try:
            yield
        finally:
            self._kept = None
        if kept:
            self._append(kept)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        with writing(self._path, "trials are as they were, start the worker again"):
            self._file.append_logs(logs)


class _RepairingLock(ShortLock):
    """A lock that cuts off half a line of a killed process or node before anything is appended."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name(f"{journal.name}.lock"))
        self._journal = journal

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            cut_to_whole_lines(self._journal)
        except OSError:
            self.release()
            raise
        return acquired


def cut_to_whole_lines(path: Path) -> None:
    """Cut a file back to the end of its last whole line."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        size = end
        while size:
            start = max(0, size - 4096)
            file.seek(start)
            found = file.read(size - start).rfind(b"\n")
            if found >= 0:
                size = start + found + 1
                break
            size = start
        if size < end:
            file.truncate(size)
