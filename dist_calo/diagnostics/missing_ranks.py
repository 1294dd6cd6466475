"""Wait for all ranks before they depend on each other: those that do not come are named, and none waits for long."""

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from dist_calo.diagnostics.nodes import and_more
from dist_calo.errors import EXIT_FAILURE, LaunchError
from dist_calo.launching.environment import World
from dist_calo.launching.meeting_point import meeting_point
from dist_calo.launching.slurm import host_names

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

_GO = "go"
_POLL_S = 0.05


def await_ranks(world: World, timeout_s: float) -> "TCPStore | None":
    """Wait until every task of srun is there; other launchers do that themselves.

    Returns:
        What has to be kept until the ranks are connected.

    Raises:
        LaunchError: on rank 0 with the ranks and nodes that are missing, on any rank that cannot reach rank 0.
        SystemExit: on the other ranks, when rank 0 has said who is missing.
    """
    if world.launcher != "srun" or world.size == 1:
        return None
    from torch._C._distributed_c10d import TCPStore

    address, port = meeting_point(world, os.environ)
    # The ranks will meet at the port itself.
    port += 1
    limit = timedelta(seconds=timeout_s)
    try:
        store = TCPStore(address, port, is_master=world.rank == 0, wait_for_workers=False, timeout=limit)
        store.set(f"here/{world.rank}", world.node)
        if world.rank == 0:
            _await_all(store, world, timeout_s)
        else:
            store.wait([_GO], limit * 2)
    except RuntimeError as error:
        raise LaunchError(
            f"rank 0 does not answer at {address}:{port} within {timeout_s:g} s: check the network of {world.node} and "
            f"that rank 0 has started ({str(error).splitlines()[0]})"
        ) from error
    if world.rank > 0 and store.get(_GO) != b"all":
        raise SystemExit(EXIT_FAILURE)
    return store


def _await_all(store: "TCPStore", world: World, timeout_s: float) -> None:
    missing = list(range(world.size))
    deadline = time.monotonic() + timeout_s
    here = set()
    while missing:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing:
            break
        if time.monotonic() > deadline:
            here = {store.get(f"here/{rank}").decode() for rank in range(world.size) if rank not in missing}
            store.set(_GO, "some")
            # The others read it before this process, and the store with it, ends.
            time.sleep(1.0)
            raise LaunchError(_absence(world, missing, here, timeout_s))
        time.sleep(_POLL_S)
    store.set(_GO, "all")


def _absence(world: World, missing: list[int], here: set[str], timeout_s: float) -> str:
    silent = [node for node in host_names(os.environ.get("SLURM_STEP_NODELIST", "")) if node not in here]
    where = f"; nothing at all from {and_more(silent)}" if silent else ""
    return (
        f"{len(missing)} of {world.size} ranks have not answered within {timeout_s:g} s: rank "
        f"{and_more(list(map(str, missing)))}{where}; see what srun says of them, and whether dist_calo is installed "
        "there"
    )
