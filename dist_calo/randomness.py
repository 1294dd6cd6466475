"""Random numbers as a pure function of (seed, step, sample, purpose).

Every number that training draws belongs to one sample of the global batch and is computed from counters, never
from hidden generator state. So a run draws the same noise on 1, 3 or 4,096 ranks, each rank computes only the
numbers of its own samples, and a resumed run needs no saved generator: position in the run is enough.

Uniform numbers come from Philox 4x64-10 (Salmon et al., SC 2011), normal ones from them by Box and Muller.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BELOW_ONE = np.float32(1.0 - 2.0**-24)
"""Largest number of float32 below 1."""


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 64-bit seed for one purpose, independent of the seeds for all others.

    Example:
        >>> derived_seed(0, "generator") == derived_seed(0, "generator")
        True
        >>> derived_seed(0, "generator") == derived_seed(0, "discriminator")
        False
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Draws:
    """The random numbers of some samples of a global batch in one update.

    Args:
        seed: seed of the run.
        step: number of the training step (or of the generated block).
        samples: positions of this rank's samples within the global batch, shape (B,).
        purpose: what the numbers are for, such as the name of the update.

    Example:
        >>> batch = Draws(0, 1, [0, 1, 2, 3]).uniform("noise", 2)
        >>> share = Draws(0, 1, [2, 3]).uniform("noise", 2)
        >>> bool((batch[2:] == share).all())
        True
    """

    def __init__(
        self, seed: int, step: int, samples: "Sequence[int] | np.ndarray", *purpose: str | int
    ) -> None:
        self._key = (seed, step, *purpose)
        self.samples = np.asarray(samples, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def step(self) -> int:
        """The training step, counted from 1."""
        return int(self._key[1])

    def named(self, *purpose: str | int) -> "Draws":
        """Return numbers of the same samples for another purpose."""
        seed, step, *rest = self._key
        return Draws(int(seed), int(step), self.samples, *rest, *purpose)

    def _uniform(self, name: str, size: int) -> np.ndarray:
        """Return uniform numbers in [0, 1) with shape (B, size), float64."""
        out = np.empty((len(self.samples), size))
        blocks = -(-size // 4)
        key = derived_seed(int(self._key[0]), *self._key[1:], name)
        starts = np.flatnonzero(np.diff(self.samples, prepend=-2) != 1).tolist()
        for first, last in zip(starts, [*starts, len(self.samples)][1:], strict=True):
            bits = np.random.Philox(key=key)
            bits.advance(int(self.samples[first]) * blocks)
            drawn = np.random.Generator(bits).random((last - first, 4 * blocks))
            out[first:last] = drawn[:, :size]
        return out

    def uniform(self, name: str, size: int = 1) -> "torch.Tensor":
        """Return uniform numbers in [0, 1), shape (B, size), float32."""
        import torch

        # float32 rounds what is nearest to 1 up to it.
        return torch.from_numpy(np.minimum(self._uniform(name, size).astype(np.float32), BELOW_ONE))

    def normal(self, name: str, size: int) -> "torch.Tensor":
        """Return standard normal numbers, shape (B, size), float32."""
        import torch

        half = -(-size // 2)
        uniform = self._uniform(name, 2 * half)
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :half]))
        phase = 2.0 * np.pi * uniform[:, half:]
        numbers = np.concatenate([radius * np.cos(phase), radius * np.sin(phase)], axis=1)
        return torch.from_numpy(numbers[:, :size].astype(np.float32))

    def dropout(self, values: "torch.Tensor", probability: float, name: str) -> "torch.Tensor":
        """Set each element to zero with the given probability and scale the rest by 1 / (1 - probability).

        Args:
            values: activations, shape (B, ...), one row a sample.
            probability: chance of an element to be dropped.
            name: name of the dropout layer, unique within the network.
        """
        import torch

        if probability == 0.0:
            return values
        keep = torch.empty_like(values, requires_grad=False)
        # Numbers are drawn in logical order: that of the memory would tie them to the memory format of the values.
        drawn = torch.empty(values.shape[1:], dtype=values.dtype, device=values.device)
        source = torch.Generator(device=values.device)
        for row, sample in enumerate(self.samples):
            source.manual_seed(derived_seed(int(self._key[0]), *self._key[1:], name, int(sample)) >> 1)
            keep[row] = drawn.bernoulli_(1.0 - probability, generator=source)
        return values * keep / (1.0 - probability)
