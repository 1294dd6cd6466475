"""Where ranks without MPI or Horovod find each other, and how they hear that one of them has failed."""

import hashlib
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from dist_calo.comm.failure import ECHO_DELAY_S, leave, lose_node
from dist_calo.comm.protocol import World
from dist_calo.errors import EXIT_FAILURE, LaunchError

# Below the ports that operating systems give to outgoing connections.
_FIRST_PORT, _PORTS = 12000, 16000
_POLL_S = 1.0
_TELL_S = 2.0
_SEE_MESSAGE = "ended because another rank has failed; see its message"


def meeting_point(world: World, environ: Mapping[str, str]) -> tuple[str, int]:
    """Address and port at which the ranks find each other: MASTER_ADDR and MASTER_PORT, or else the launcher's facts.

    Under srun the address is the first node of the job; on a single node it is this host. The port follows from the
    number of the job and step, so that all ranks arrive at the same one without talking.

    Raises:
        LaunchError: if the ranks are on several nodes and nothing tells which node holds rank 0.
    """
    address = environ.get("MASTER_ADDR")
    if address is None and world.local_size == world.size:
        address = "127.0.0.1"
    elif address is None and world.launcher == "srun":
        address = _first_host(environ)
    if address is None:
        raise LaunchError(
            f"{world.launcher} started {world.size} ranks on several nodes, and the torch backend needs the address of "
            "rank 0: set MASTER_ADDR (and MASTER_PORT) on all ranks, or choose comm.backend=mpi or horovod"
        )
    if "MASTER_PORT" in environ:
        try:
            return address, int(environ["MASTER_PORT"])
        except ValueError:
            raise LaunchError(f"MASTER_PORT={environ['MASTER_PORT']!r}: must be a port number") from None
    job = [
        environ.get(name, "")
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri")
    ]
    if not any(job) and world.size > 1:
        raise LaunchError(
            f"{world.launcher} tells neither MASTER_PORT nor a job number: set MASTER_PORT to a free port on all ranks"
        )
    digest = hashlib.blake2b("/".join(job).encode(), digest_size=4).digest()
    return address, _FIRST_PORT + int.from_bytes(digest, "little") % _PORTS


def _first_host(environ: Mapping[str, str]) -> str:
    nodes = (
        environ.get("SLURM_STEP_NODELIST")
        or environ.get("SLURM_JOB_NODELIST")
        or environ.get("SLURM_NODELIST")
    )
    if not nodes:
        raise LaunchError(
            "SLURM_JOB_NODELIST is not set: start the ranks with srun, or set MASTER_ADDR and MASTER_PORT"
        )
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        hosts = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(
            f"`{' '.join(command)}` failed ({error}): "
            "set MASTER_ADDR to the node of rank 0, and MASTER_PORT, on all ranks"
        ) from error
    return hosts[0]


class Alarm:
    """Ends this rank soon after another one has failed, even while it computes and takes part in no collective.

    Launchers differ in patience: torchrun and srun give ranks that catch SIGTERM, as ours do to save their work, half a
    minute. A thread looks once a second whether a rank has raised the alarm in the store that all ranks share. A second
    one watches the first, since TCP waits a quarter of an hour for the answer of a node that has vanished.

    Args:
        world: this process among the ranks.
        address: host of the store.
        port: port of the store.
        key: of this alarm in the store, which may outlive the ranks; the same on all of them.
        keeper: who keeps the store, for messages.
        silence_s: time after which a store that does not answer is lost, in seconds.
    """

    def __init__(
        self, world: World, address: str, port: int, key: str, keeper: str, silence_s: float
    ) -> None:
        self._world, self._key, self._keeper, self._silence_s = world, key, keeper, silence_s
        patience = timedelta(seconds=max(30.0, silence_s))
        self._store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=patience)
        self._off = threading.Event()
        self._unanswered = 0
        self.cause: str | None = None
        """Which node is lost, as far as this rank has heard."""
        self._threads = [
            threading.Thread(target=work, name="alarm", daemon=True) for work in (self._watch, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    def ring_for_node(self, cause: str, suspect: str | None) -> None:
        """Tell the other ranks, and the job script, that a node is lost, or that its first rank has ended.

        Where a rank has said before that it fails, those that end are no further news.
        """
        if suspect is not None and self._heard() is not None:
            return
        lose_node(cause, suspect)
        self.ring(cause)

    def ring(self, cause: str = "") -> None:
        """Tell the other ranks that this one has failed, or that a node is lost; the first word counts."""
        # The store may be what is lost.
        teller = threading.Thread(target=self._tell, args=(cause,), daemon=True)
        teller.start()
        teller.join(_TELL_S)

    def _tell(self, cause: str) -> None:
        with suppress(RuntimeError):
            self._store.compare_set(self._key, "", cause or _SEE_MESSAGE)

    def switch_off(self) -> None:
        """Stop watching, before this rank leaves in order."""
        self._off.set()
        for thread in self._threads:
            thread.join(_TELL_S)

    def _watch(self) -> None:
        while not self._off.wait(_POLL_S):
            heard = self._heard()
            self._unanswered = 0
            if heard is None:
                continue
            if heard != _SEE_MESSAGE:
                self.cause = heard
            # Time for this rank's own message, should it be about to fail too.
            if not self._off.wait(ECHO_DELAY_S + 1):
                leave(self._world, f"error: {heard}", EXIT_FAILURE)

    def _heard(self) -> str | None:
        try:
            return self._store.get(self._key).decode() if self._store.check([self._key]) else None
        except RuntimeError:
            return f"{self._keeper} has ended: see its message; if there is none, its node has crashed"

    def _guard(self) -> None:
        """Counts seconds in which this rank was awake: a job that is suspended and woken up has lost nobody."""
        while not self._off.wait(1.0):
            self._unanswered += 1
            if self._unanswered > self._silence_s:
                silence = f"nothing has been heard from it for {self._silence_s:g} s"
                self.cause = f"{self._keeper} no longer answers: {silence}"
                lose_node(self.cause)
                leave(self._world, f"error: {self.cause}", EXIT_FAILURE)
