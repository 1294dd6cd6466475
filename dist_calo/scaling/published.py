"""Efficiencies that others have measured when training 3-d GANs of calorimeters on many nodes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A weak-scaling result."""

    label: str
    source: str
    points: tuple[tuple[int, float], ...]
    """Nodes or GPUs, and efficiency relative to the first."""


PUBLISHED = (
    Published(
        label="3DGAN, Horovod, 128 Xeon nodes",
        source="Vallecorsa et al., ISC High Performance 2018, LNCS 11203: 94 % at 128 nodes",
        points=((1, 1.0), (128, 0.94)),
    ),
    Published(
        label="3DGAN, 2-128 V100",
        source="ISC_HPC_3DGAN result tables: 94.0 % at 64 and 79.9 % at 128 GPUs, relative to 2",
        points=((2, 1.0), (64, 0.940), (128, 0.799)),
    ),
)
