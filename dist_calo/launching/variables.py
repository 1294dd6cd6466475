"""Environment variables: how a number is read from one, and those by which our own programs talk to each other.

Users set

- ``DIST_CALO_HOME``: the folder of the checkout, for job scripts that are submitted from elsewhere.
- ``DIST_CALO_LAUNCHER=none``: this process is not a rank, whatever its environment says.

Starters set, and ranks read

- ``DIST_CALO_LAUNCHER``: ``local`` or ``elastic``, what started this rank.
- ``DIST_CALO_MOST_RANKS``: number of ranks that an elastic run may grow to.
- ``DIST_CALO_RESTART_COUNT``: how often an elastic run has started its ranks anew.
- ``DIST_CALO_JOB``: the run that ranks of an elastic node belong to, whose own batch job may be another one.
- ``DIST_CALO_SWEEP_JOB``: name and start of the batch job, for ranks whose launcher hides SLURM's variables.
- ``DIST_CALO_SIGNS``: the file in memory in which the ranks of a node leave signs of life.
- ``DIST_CALO_ADDRESSES``: addresses that were masked, as JSON: masked and as they were.

A batch job (`dist_calo.launching.job`) sets

- ``DIST_CALO_LOST``: the file into which the first rank that knows of a lost node writes the cause and a suspect.
- ``DIST_CALO_FAILURE``: the file into which the first rank that fails writes its exit code and last line.
- ``DIST_CALO_STAGED_FROM``: the folder of which the data files are copies on the node's local disk.
"""

import re
from collections.abc import Mapping

from dist_calo.errors import LaunchError

_NUMBER = re.compile(r"\s*(0|[1-9][0-9]{0,9})\s*", re.ASCII)


def whole_number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return the number that a variable holds.

    Args:
        environ: the environment's variables.
        name: of the variable.
        default: what stands for a variable that is not set, or empty; it must be set if None.

    Raises:
        LaunchError: if the text is not a whole number of at most ten digits, as `int` would take signs, underscores and
            the digits of any script.
    """
    text = environ.get(name, "")
    if default is not None and not text.strip():
        return default
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise LaunchError(
            f"{name}={text[:80]!r}: must be a whole number such as 4; correct it, or unset {name} and start the ranks "
            "with a launcher, which sets it"
        )
    return int(match[1])
