"""The generator of a checkpoint in every runtime that is installed: timed, and scored beside."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_calo.comm.threads import available_cores
from dist_calo.deployment import runtimes
from dist_calo.deployment.exporting.programs import export_onnx
from dist_calo.deployment.timing import Score, Scorer, time_generation
from dist_calo.errors import CheckpointError, MissingComponentError
from dist_calo.generation.incident_conditions import requested_conditions
from dist_calo.training.restore import TrainedGenerator

PYTORCH, FP32, INT8 = "PyTorch", "ONNX Runtime fp32", "ONNX Runtime int8"


class Bench:
    """Times and scores of a checkpoint in every runtime that is installed.

    Args:
        state: the checkpoint.
        generator: restored from it, on the CPU.
        scorer: what tells how good showers are; or why there is none.
        seconds: time for each row.
    """

    def __init__(
        self, state: Mapping[str, Any], generator: TrainedGenerator, scorer: Scorer | str, seconds: float
    ) -> None:
        self.scorer = scorer
        self._generator, self._seconds = generator, seconds
        self._conditions = requested_conditions(state, generator.geometry, {}, None)
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
                self._scores[name] = self.scorer.score(form)

    def measure_cpu(self, batch: int, threads: int) -> None:
        """A row for each runtime."""
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
        """A row for the GPU, if there is one."""
        if self._cuda is not None:
            row = {"runtime": PYTORCH, "device": "cuda", "threads": len(available_cores()), "batch": batch}
            self._measure(row, f"{PYTORCH} cuda", self._cuda, batch)

    def _measure(self, row: dict[str, Any], name: str, form: TrainedGenerator, batch: int) -> None:
        _tell(f"{name}, {row['threads']} thread(s), batch {batch}")
        row = row | time_generation(form, self._conditions, batch, self._seconds).to_dict()
        score = self._scores.get(name)
        if score is not None:
            row |= asdict(score) | {"usable": self._scores[PYTORCH].allows(score)}
        if name in self._notes:
            row["note"] = self._notes[name]
        self._rows.append(row)

    def result(self) -> dict[str, Any]:
        """All that was measured, as plain values."""
        found: dict[str, Any] = {"rows": self._rows, "bytes": self._bytes}
        if isinstance(self.scorer, str):
            return found | {"score": {"note": self.scorer}}
        return found | {
            "score": {"sample": self.scorer.described, "floor": self.scorer.floor(self._generator)}
        }


def _tell(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)
