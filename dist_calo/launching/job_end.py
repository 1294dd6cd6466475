"""End of a batch job: whose exit code counts, which node is lost, and is the job put back into the queue?

The rules are functions of facts. Ranks leave theirs in files (`dist_calo.launching.failure_messages`); of a node one
can only ask whether it starts a process.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dist_calo.errors import EXIT_PREEMPTED, EXIT_USER

IN_ORDER = (0, EXIT_USER, EXIT_PREEMPTED)
"""Exit codes of ranks that have said all there is to say."""
_ACHIEVED = re.compile(r"step-.*\.pt|repeat-.*\.json")


@dataclass(frozen=True)
class Loss:
    """The word of a rank that a node is lost.

    Attributes:
        cause: for people.
        suspect: the node of which nobody knows more than that a process of it has ended, so that a rank may have been
            killed or run out of memory; empty where the node itself is known to be silent.
    """

    cause: str
    suspect: str = ""


def read_loss(file: Path) -> Loss | None:
    """Return what ranks have said of a lost node; None if nothing."""
    lines = _lines(file)
    return Loss(lines[0], lines[1].partition(".")[0] if len(lines) > 1 else "") if lines else None


def read_failure(file: Path) -> tuple[str, str]:
    """Return the exit code and last line of the first rank that failed, both empty if none has told."""
    code, reason, *_ = [*_lines(file), "", ""]
    return code, reason


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        # A network file system remembers for up to a minute that a file was not there, unless its folder is listed.
        os.listdir(file.parent)
        return file.read_text(errors="replace").splitlines()
    return []


def is_lost(loss: Loss, hosts: Collection[str], starts: Callable[[str], bool]) -> bool:
    """Return whether a node is lost of which ranks have left word.

    Args:
        loss: their word.
        hosts: nodes of the job, the first of which runs its script.
        starts: asks whether a node starts a process. The first node tells whether any can be started here at all.
    """
    if not loss.suspect:
        return True
    first = next(iter(hosts))
    # A name that SLURM does not know tells nothing.
    return loss.suspect in hosts and starts(first) and not starts(loss.suspect)


def may_hide_a_loss(code: int, told: str, launcher: str) -> bool:
    """Return whether a launcher may have ended the ranks before they could tell of a lost node.

    Args:
        code: exit code of the launcher.
        told: what a rank has said of its failure.
        launcher: the starter; an elastic run goes on without lost nodes.
    """
    return not told and launcher != "elastic" and code not in IN_ORDER


def final_code(code: int, told: str) -> int:
    """Return a job's exit code: that of the rank that failed first.

    A launcher's is often that of a rank which it has ended because of the other.

    Args:
        code: exit code of the launcher.
        told: exit code that the first rank that failed has left, if any.
    """
    if code not in (0, EXIT_PREEMPTED) and re.fullmatch("[1-9][0-9]{0,2}", told):
        return int(told)
    return code


def asks_for_requeue(code: int, *, was_stopped: bool, has_lost_node: bool, is_wanted: bool) -> bool:
    """Return whether a job should go on later, by the way in which it has ended.

    Args:
        code: its exit code.
        was_stopped: SLURM has sent a signal.
        has_lost_node: a node no longer answers.
        is_wanted: the user has not set ``REQUEUE=no``.
    """
    interrupted = was_stopped or has_lost_node or code == EXIT_PREEMPTED
    return is_wanted and interrupted and code not in (0, EXIT_USER)


def achieved(folder: str) -> str:
    """Return a digest of what has been achieved below a folder: names and times of checkpoints and measured points."""
    found = []
    for parent, _, names in os.walk(os.path.realpath(folder)):
        for name in filter(_ACHIEVED.fullmatch, names):
            path = os.path.join(parent, name)
            with suppress(OSError):
                found.append(f"{path} {os.lstat(path).st_mtime_ns}")
    return hashlib.blake2b(
        "\n".join(sorted(found)).encode("utf-8", "surrogateescape"), digest_size=16
    ).hexdigest()


def stands_still(before: str, began_with: str, now: str) -> bool:
    """Return whether two starts of a job in a row have achieved nothing.

    Args:
        before: what there was when the start before this one began; empty if this is the first one.
        began_with: what there was when this one began.
        now: what there is.
    """
    return before == began_with == now
