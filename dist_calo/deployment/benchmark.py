"""Benchmark of a checkpoint: its generator timed and scored in every runtime that is installed, beside Geant4."""

import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dist_calo.comm.threads import available_cores
from dist_calo.deployment import runtimes
from dist_calo.deployment.exporting.programs import export_onnx
from dist_calo.deployment.timing import Score, Scorer, time_generation
from dist_calo.errors import CheckpointError, MissingComponentError, UserError
from dist_calo.generation.incident_conditions import requested_conditions
from dist_calo.physics.metrics.observable_metrics import LEAST_FOR_WIDTH
from dist_calo.simulation.geant4.reference import recorded_seconds, simulated_seconds
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.restore import TrainedGenerator, restore_generator

PYTORCH, FP32, INT8 = "PyTorch", "ONNX Runtime fp32", "ONNX Runtime int8"


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """Rows and comparisons of a benchmark."""

    batches: list[int]
    """Showers asked for at a time."""
    threads: list[int]
    """Numbers of threads on the processor; none where the GPU alone is measured."""
    cuda: bool
    """Measure the GPU too."""
    seconds: float
    """Time for each row."""
    real: str | None
    """Showers that the score compares with; by default the test split of the training data."""
    score_showers: int
    geant4_seconds: float | None
    """Geant4's time for a shower, where it is known."""
    geant4_showers: int


def measure(checkpoint: Checkpoint, request: BenchRequest) -> dict[str, Any]:
    """Time and score the generator of a checkpoint.

    Returns:
        Plain values: the machine, Geant4's time, the scores, and a row for each measurement.
    """
    generator = restore_generator(checkpoint)
    bench = Bench(checkpoint, generator, _scorer(checkpoint, request), request.seconds)
    with tempfile.TemporaryDirectory() as folder:
        bench.prepare(Path(folder), cuda=request.cuda)
        for threads in request.threads:
            for batch in request.batches:
                bench.measure_cpu(batch, threads)
        for batch in request.batches:
            bench.measure_cuda(batch)
    geant4 = _geant4(checkpoint, request, bench.scorer)
    result = {
        "step": checkpoint.step,
        "model": checkpoint.model_name,
        "geometry": generator.geometry.described,
        "machine": _machine(),
        "geant4": geant4,
        **bench.result(),
    }
    if geant4["seconds_per_shower"] is not None:
        for row in result["rows"]:
            if "ms_per_shower" in row:
                row["speed_up"] = 1e3 * geant4["seconds_per_shower"] / row["ms_per_shower"]
                row["speed_up_cpu"] = 1e3 * geant4["seconds_per_shower"] / row["cpu_ms_per_shower"]
    return result


class Bench:
    """Times and scores of a checkpoint in every runtime that is installed.

    Args:
        checkpoint: the weights, and their training.
        generator: restored from it, on the CPU.
        scorer: judges the showers; or why there is none.
        seconds: time for each row.
    """

    def __init__(
        self, checkpoint: Checkpoint, generator: TrainedGenerator, scorer: Scorer | str, seconds: float
    ) -> None:
        self.scorer = scorer
        self._generator, self._seconds = generator, seconds
        self._conditions = requested_conditions(checkpoint, generator.geometry, {}, None)
        self._files: dict[str, Path] = {}
        self._bytes: dict[str, int] = {}
        self._absent: dict[str, str] = {}
        self._cuda: TrainedGenerator | None = None
        self._scores: dict[str, Score] = {}
        self._notes: dict[str, str] = {}
        self._rows: list[dict[str, Any]] = []

    def prepare(self, folder: Path, cuda: bool) -> None:
        """Write the ONNX files and score each form of the generator."""
        forms = {PYTORCH: self._generator}
        fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
        everything = len(available_cores())
        try:
            # Not compared shower by shower as an export is: its score stands beside its time.
            export_onnx(self._generator, fp32, check=0)
            self._files[FP32] = fp32
            self._notes[INT8] = f"8 bits in {runtimes.write_int8(self._generator, fp32, int8)}"
            self._files[INT8] = int8
        except (MissingComponentError, CheckpointError, RuntimeError) as error:
            self._absent |= {name: str(error) for name in (FP32, INT8) if name not in self._files}
        self._bytes = {name: path.stat().st_size for name, path in self._files.items()}
        for name, path in self._files.items():
            forms[name] = runtimes.load_onnx(self._generator, path, everything)
        if cuda:
            self._cuda = forms[f"{PYTORCH} cuda"] = runtimes.moved(self._generator, "cuda")
        if isinstance(self.scorer, str):
            return
        with runtimes.threads_of_torch(everything):
            for name, form in forms.items():
                _tell(f"score of {name}")
                score = self.scorer.score(form)
                if score is not None:
                    self._scores[name] = score

    def measure_cpu(self, batch: int, threads: int) -> None:
        """Measure a row for each runtime."""
        for name in (PYTORCH, FP32, INT8):
            row = {"runtime": name, "device": "cpu", "threads": threads, "batch": batch}
            if name in self._absent:
                self._rows.append(row | {"note": self._absent[name]})
                continue
            with runtimes.threads_of_torch(threads):
                form = self._generator
                if name in self._files:
                    form = runtimes.load_onnx(self._generator, self._files[name], threads)
                self._measure(row, name, form, batch)

    def measure_cuda(self, batch: int) -> None:
        """Measure a row for the GPU, if there is one."""
        if self._cuda is not None:
            row = {"runtime": PYTORCH, "device": "cuda", "threads": len(available_cores()), "batch": batch}
            self._measure(row, f"{PYTORCH} cuda", self._cuda, batch)

    def _measure(self, row: dict[str, Any], name: str, form: TrainedGenerator, batch: int) -> None:
        _tell(f"{name}, {row['threads']} thread(s), batch {batch}")
        row = row | time_generation(form, self._conditions, batch, self._seconds).to_dict()
        own, score = self._scores.get(PYTORCH), self._scores.get(name)
        if own is not None:
            row |= {} if score is None else asdict(score)
            row["usable"] = score is not None and own.allows(score)
        if name in self._notes:
            row["note"] = self._notes[name]
        self._rows.append(row)

    def result(self) -> dict[str, Any]:
        """Return all that was measured, as plain values."""
        found: dict[str, Any] = {"rows": self._rows, "bytes": self._bytes}
        if isinstance(self.scorer, str):
            return found | {"score": {"note": self.scorer}}
        own = self._scores.get(PYTORCH)
        if own is None:
            few = (
                f"too few showers: it needs {LEAST_FOR_WIDTH} real ones and a generated one without infinite or NaN "
                f"cells; compared with {self.scorer.described}"
            )
            return found | {"score": {"note": few}}
        return found | {"score": {"sample": self.scorer.described, "floor": own.floor}}


def _tell(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


def _scorer(checkpoint: Checkpoint, request: BenchRequest) -> Scorer | str:
    """Return the scorer, or why there is none: the showers of the checkpoint's training may be gone."""
    try:
        return Scorer(checkpoint, request.score_showers, request.real)
    except UserError as error:
        if request.real is not None:
            raise
        return f"{error} (--real FILE names other showers)"


def _geant4(checkpoint: Checkpoint, request: BenchRequest, scorer: Scorer | str) -> dict[str, Any]:
    """Return Geant4's time of a shower and where it comes from: the command line, the data, or a run of Geant4."""
    if request.geant4_seconds is not None:
        source = f"{request.geant4_seconds:g} s a shower, --geant4-seconds"
        return {"seconds_per_shower": request.geant4_seconds, "source": source}
    files = [] if isinstance(scorer, str) else scorer.files
    seconds = recorded_seconds(files)
    if seconds is not None:
        return {
            "seconds_per_shower": seconds,
            "source": f"{seconds:.3g} s a shower on one core, as the data record it",
        }
    try:
        seconds, source = simulated_seconds(checkpoint.geometry, checkpoint.energies, request.geant4_showers)
    except UserError as error:
        return {"seconds_per_shower": None, "source": str(error)}
    return {"seconds_per_shower": seconds, "source": source}


def _machine() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in ("torch", "onnxruntime", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": len(available_cores()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions,
    }


def _processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
