"""A registered generator as MLflow loads it: tables of conditions in, showers in physical units out.

MLflow's ``loader_module`` of the models that `dist_calo.deployment.registry` writes. A model carries this package's
code and its weights, so loading needs neither an installed dist_calo nor the command that wrote it; of other packages
it imports NumPy and torch alone, and nothing is unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dist_calo.errors import DataError
from dist_calo.geometry import CONDITION_UNITS, CONDITIONS, Geometry, Waveforms
from dist_calo.randomness import Draws
from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
from dist_calo.training.restore import TrainedGenerator, restore_generator

if TYPE_CHECKING:
    import pandas as pd

CHUNK_NUMBERS = 2**21
"""Numbers generated at a time: 134 showers of 25 x 25 x 25 cells."""
MOST_NUMBERS = 2**28
"""Most numbers of one answer: 1 GiB of float32."""


def input_columns(geometry: Geometry) -> list[str]:
    """Return the columns of the table of conditions, with their units, such as ``energy_GeV``."""
    return [f"{name}_{CONDITION_UNITS[name]}" for name in geometry.conditions]


def output_name(geometry: Geometry) -> str:
    """Return the name of the generated array, with its unit, such as ``cells_GeV``."""
    return f"samples_{geometry.unit.replace(' ', '_')}" if isinstance(geometry, Waveforms) else "cells_GeV"


class ShowerModel:
    """Model that `mlflow.pyfunc` calls.

    Args:
        generator: a restored generator.
    """

    def __init__(self, generator: TrainedGenerator) -> None:
        self.generator = generator
        self.columns = input_columns(generator.geometry)

    def predict(
        self, model_input: "pd.DataFrame", params: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Generate a shower for each row.

        Args:
            model_input: a column for each condition (`input_columns`).
            params: ``seed`` decides all random numbers; ``first_sample`` is the number of the first row's shower in
                the stream of that seed, so that calls with 0, 100, 200 continue one another. Both 0 by default. The
                stream is that of ``dist-calo generate --seed``.

        Returns:
            Showers by `output_name`, shape (B, *geometry.shape), float32.

        Raises:
            MlflowException: if a number breaks a rule; over HTTP the answer is 400 with that one line.
        """
        try:
            return {output_name(self.generator.geometry): self._generate(model_input, dict(params or {}))}
        except DataError as error:
            from mlflow.exceptions import MlflowException

            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _generate(self, table: "pd.DataFrame", params: Mapping[str, Any]) -> np.ndarray:
        seed, first = int(params.get("seed", 0)), int(params.get("first_sample", 0))
        if seed < 0 or first < 0:
            raise DataError(f"seed={seed}, first_sample={first}: must not be below 0")
        conditions = self._conditions(table)
        geometry = self.generator.geometry
        rows, most = len(conditions), MOST_NUMBERS // geometry.cells
        if rows > most:
            raise DataError(
                f"{rows} rows: at most {most} showers of {geometry.described} fit into one answer; ask for them in "
                "parts with first_sample, or use dist-calo generate"
            )
        showers = np.empty((rows, *geometry.shape), dtype=np.float32)
        step = max(CHUNK_NUMBERS // geometry.cells, 1)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            draws = Draws(seed, 0, range(first + part.start, first + part.stop), "generate")
            showers[part] = self.generator.generate(torch.from_numpy(conditions[part]), draws).numpy()
        return showers

    def _conditions(self, table: "pd.DataFrame") -> np.ndarray:
        missing = [name for name in self.columns if name not in table]
        if missing:
            raise DataError(f"columns {list(table)}: {', '.join(missing)} must be among them")
        values = np.stack([np.asarray(table[name], dtype=np.float32) for name in self.columns], axis=1)
        known = [CONDITIONS[name] for name in self.generator.geometry.conditions]
        allowed = np.stack(
            [condition.allows(values[:, place]) for place, condition in enumerate(known)], axis=1
        )
        if not allowed.all():
            row, column = (int(found[0]) for found in np.nonzero(~allowed))
            raise DataError(
                f"row {row}: {self.columns[column]}={values[row, column]:g} must be {known[column].rule}; correct it "
                "or leave the row out"
            )
        return values


def _load_pyfunc(path: str) -> ShowerModel:
    """Load the model for MLflow, which gives the path of the checkpoint, or of the folder that holds it."""
    file = Path(path)
    if file.is_dir():
        (file,) = file.glob("*.pt")
    return ShowerModel(restore_generator(Checkpoint.from_dict(load_checkpoint(file))))
