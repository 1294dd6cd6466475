"""Device of a rank."""

from dist_calo.errors import LaunchError
from dist_calo.launching.environment import World


def local_device(name: str, world: World) -> str:
    """Return the device of this rank: ``cpu``, or the GPU with the number of the local rank.

    Args:
        name: ``cpu``; ``cuda``; ``auto``, which takes a GPU if there is one; or a device with a number.
        world: this process among the ranks.

    Raises:
        LaunchError: if a GPU is asked for and this rank has none of its own.
    """
    if name not in ("auto", "cuda"):
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and gpus == 0:
        return "cpu"
    if gpus == 0:
        raise LaunchError(
            f"train.device={name}, but rank {world.rank} on {world.node} sees no GPU: "
            "use train.device=cpu, or ask the batch system for GPUs"
        )
    if gpus == 1:
        # The batch system may show each rank its own GPU only.
        return "cuda:0"
    if world.local_rank >= gpus:
        raise LaunchError(
            f"{world.local_size} ranks on {world.node}, which has {gpus} GPUs: "
            f"start {gpus} ranks a node, or use train.device=cpu"
        )
    return f"cuda:{world.local_rank}"
