"""Request of an evaluation, checked before anything is loaded or written."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from dist_calo.config import DataConfig
from dist_calo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Request to compare two samples.

    Attributes:
        real: shower files of the reference; None for the test split of the checkpoint's training.
        fake: generated shower files, or None.
        checkpoint: what generates instead, as `dist_calo.training.model_sources.state_of` takes it, or None.
        reading: what the files leave unsaid.
        showers: the first so many of each sample only.
        edges: of the bins of incident energy in GeV; None to let the reference decide.
        rows: showers of each sample whose rows are kept.
        levels: classifiers to train.
        seed: of generated showers.
        device: where they are generated.
        tracking_uri: MLflow store, ``none``, or None for that of the training.
        names: what the two samples are called.
        out: folder of the results.
        report: whether to draw the report.
        threshold: cells below this energy in GeV count as empty; None for what the checkpoint's training left out.
    """

    real: str | None
    fake: str | None
    checkpoint: str | None
    reading: DataConfig
    showers: int | None
    edges: tuple[float, ...] | None
    rows: int
    levels: tuple[str, ...]
    seed: int
    device: str
    tracking_uri: str | None
    names: tuple[str, str]
    out: Path
    report: bool = True
    threshold: float | None = None

    def __post_init__(self) -> None:
        if (self.fake is None) == (self.checkpoint is None):
            raise ConfigError("what is to be compared? give either --fake FILES or --checkpoint DIR")
        if self.real is None and self.checkpoint is None:
            raise ConfigError("--real is missing: the Geant4 showers to compare with")
        for name, value in (("showers", self.showers), ("rows", self.rows)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: must be at least 1")
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise ConfigError(f"--threshold {self.threshold}: must be 0 or more, in GeV")


def parse_edges(text: str) -> tuple[float, ...]:
    """Return the edges of bins of incident energy in GeV, which commas separate.

    Raises:
        ConfigError: if they are not at least two increasing numbers.
    """
    try:
        edges = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--energy-edges {text}: give numbers in GeV such as 10,30,50,100") from None
    rising = all(low < high for low, high in itertools.pairwise(edges))
    if len(edges) < 2 or not rising or not all(map(math.isfinite, edges)):
        raise ConfigError(f"--energy-edges {text}: at least two increasing energies in GeV are needed")
    return edges


def require_free(out: Path, *, force: bool) -> None:
    """Check that no evaluation lies in a folder, unless it is to be replaced.

    Raises:
        ConfigError: if one does, or the folder is a file.
    """
    taken = [name for name in ("metrics.json", "report.html") if (out / name).exists()]
    if taken and not force:
        raise ConfigError(f"--out {out}: holds {taken[0]}; name another folder or add --force to replace it")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
