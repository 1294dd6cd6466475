"""Check of one machine: would the trainer run here, with these settings? Each probe gives lines of a report."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dist_calo.config import RunConfig
from dist_calo.diagnostics.facts import PACKAGES
from dist_calo.diagnostics.nodes import Check
from dist_calo.errors import EXIT_FAILURE, CheckpointError, UserError
from dist_calo.resources import described_showers

if TYPE_CHECKING:
    from dist_calo.data.manifest import Manifest

PROBE_SECONDS = 120.0
"""Longest time for a library to start in a process of its own."""
CONNECT_SECONDS = 60.0
"""Longest time in which the ranks have to find each other."""
_LIBRARY = """
from dist_calo.diagnostics.facts import library_of
print(*library_of({backend!r}).values())
"""
_OF_LAUNCHERS = ("HOROVOD_", "OMPI_", "PMI", "SLURM_")


def check_machine(config: RunConfig) -> int:
    """Print what is found on this machine and return the exit code: 1 if the trainer would not run here."""
    ranks = _Ranks()
    checks = list(_tried("ranks", lambda: ranks.check(config)))
    failed = any(check.status == "FAIL" for check in checks)
    if ranks.rank > 0:
        for check in checks:
            if check.status == "FAIL":
                print(f"rank {ranks.rank}: {check}", flush=True)
        return EXIT_FAILURE if failed else 0
    for name, probe in PROBES.items():
        for check in _tried(name, lambda probe=probe: probe(config)):  # type: ignore[misc]
            failed |= check.status == "FAIL"
            print(check, flush=True)
    for check in checks:
        print(check, flush=True)
    print("The trainer would not run here." if failed else "The trainer would run here.")
    return EXIT_FAILURE if failed else 0


def _tried(name: str, probe: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the lines of a probe; its own failure is one more."""
    try:
        yield from probe()
    except UserError as error:
        yield Check("FAIL", name, str(error))
    except Exception as error:
        yield Check("FAIL", name, f"{type(error).__name__}: {error}; please report it with this output")


class _Ranks:
    """This rank among the others, which it joins as the trainer would."""

    def __init__(self) -> None:
        self.rank = 0

    def check(self, config: RunConfig) -> Iterator[Check]:
        import torch

        from dist_calo.comm import choose_backend, connect
        from dist_calo.comm.threads import set_threads
        from dist_calo.launching.environment import find_world
        from dist_calo.training.setup import require_enough_samples

        world = find_world(os.environ)
        self.rank = world.rank
        yield Check("ok", "launcher", f"{world.launcher}: rank {world.rank} of {world.size} on {world.node}")
        if world.remark:
            yield Check("ok", "launcher", world.remark)
        backend = choose_backend(config.comm.backend, world)
        try:
            communicator = connect(backend, world, CONNECT_SECONDS, config.train.device)
            total = torch.ones(1)
            communicator.all_reduce(total)
            _, reason = set_threads(communicator, config.comm.threads)
            communicator.close()
        except UserError:
            raise
        except Exception as error:
            advice = "check that every node reaches rank 0, or choose another comm.backend"
            yield Check("FAIL", "backend", f"{backend}: {error}; {advice}")
            return
        if int(total) != world.size:
            yield Check(
                "FAIL", "backend", f"{backend} adds up {int(total)} ranks, not {world.size}: build it again"
            )
        yield Check("ok", "backend", f"{backend}, {int(total)} of {world.size} ranks answer")
        yield Check("ok", "threads", f"{reason} ({os.cpu_count()} hardware threads on {world.node})")
        if world.rank == 0:
            require_enough_samples(config, world.size)


def _versions(config: RunConfig) -> Iterator[Check]:
    yield Check("ok", "python", f"{platform.python_version()} in {sys.prefix}")
    for package in PACKAGES:
        optional = package in ("mpi4py", "horovod")
        try:
            yield Check("ok", package, metadata.version(package))
        except metadata.PackageNotFoundError:
            install = {
                "mpi4py": "pip install 'dist_calo[mpi]', with an MPI at hand",
                "horovod": "dist-calo horovod build (about 5 minutes, needs a C++ compiler)",
            }
            advice = install.get(package, f"pip install {package}")
            yield Check("--" if optional else "FAIL", package, f"not installed: {advice}")


def _mpi(config: RunConfig) -> Iterator[Check]:
    yield from _library(config, "mpi4py", "mpi", "Open MPI")


def _horovod(config: RunConfig) -> Iterator[Check]:
    yield from _library(config, "horovod", "horovod", "Horovod")


def _library(config: RunConfig, package: str, backend: str, name: str) -> Iterator[Check]:
    """Ask a library about itself in a process of its own, which it may end as it likes."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return
    environ = {key: value for key, value in os.environ.items() if not key.startswith(_OF_LAUNCHERS)}
    command = [sys.executable, "-c", _LIBRARY.format(backend=backend)]
    probe = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PROBE_SECONDS)
    if probe.returncode == 0:
        yield Check("ok", name, probe.stdout.strip() if backend == "mpi" else f"with {probe.stdout.strip()}")
        return
    status: Literal["--", "FAIL"] = "FAIL" if config.comm.backend == backend else "--"
    lines = (probe.stderr or probe.stdout).strip().splitlines() or [f"exit code {probe.returncode}"]
    yield Check(
        status, name, f"does not start ({lines[-1]}): build it again for this machine, or use another backend"
    )


def _gpus(config: RunConfig) -> Iterator[Check]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(count))
    if count or config.train.device != "cuda":
        yield Check("ok" if count else "--", "GPU", names or f"none that torch {torch.__version__} can use")
    else:
        yield Check(
            "FAIL",
            "GPU",
            f"train.device=cuda, but torch {torch.__version__} finds none: use train.device=cpu",
        )


def _data(config: RunConfig) -> Iterator[Check]:
    from dist_calo.data.manifest import build_manifest

    manifest = build_manifest(config.data)
    yield Check(
        "ok",
        "data",
        f"{manifest.rows} showers of {manifest.geometry.described} in {len(manifest.files)} files, "
        f"{', '.join(map(described_showers, config.data.patterns))}",
    )
    for name, probe in PROBES_OF_DATA.items():
        yield from _tried(name, lambda probe=probe: probe(config, manifest))  # type: ignore[misc]


def _model(config: RunConfig, manifest: "Manifest") -> Iterator[Check]:
    """Make the networks and all that trains them as the job would, with constants from the data."""
    import torch

    from dist_calo.comm.single import SingleCommunicator
    from dist_calo.launching.environment import World
    from dist_calo.training.setup import build_learner
    from dist_calo.transforms import Transform

    transform = Transform.from_config(config.transform)
    alone, cpu = SingleCommunicator(World()), torch.device("cpu")
    model = build_learner(config, manifest, transform, alone, cpu, saved=None).model
    count = sum(weights.numel() for weights in model.parameters())
    yield Check("ok", "model", f"{config.model.name} with {config.objective.name}, {count:,} parameters")


def _batches(config: RunConfig, manifest: "Manifest") -> Iterator[Check]:
    from dist_calo.data.loader import training_loader

    batch = config.train.global_batch_size
    training_loader(manifest, config.data, seed=config.train.seed, global_batch_size=batch).close()
    yield Check("ok", "batches", f"of {batch} showers")


def _resume(config: RunConfig, manifest: "Manifest") -> Iterator[Check]:
    """Try whether the job may go on from the checkpoint that it would find."""
    from dist_calo.data.manifest import require_same_files
    from dist_calo.training.checkpoint import Checkpoint, load_checkpoint
    from dist_calo.training.checkpoint_folder import CheckpointFolder
    from dist_calo.training.restore import require_same_run

    folder, resume = CheckpointFolder(config.checkpoint.dir), config.checkpoint.resume
    if resume == "no":
        return
    state = folder.newest() if resume == "auto" else load_checkpoint(resume)
    if state is None:
        yield Check("--", "resume", f"{folder.folder} holds no checkpoint yet: the job would start anew")
        return
    saved = Checkpoint.from_dict(state)
    require_same_run(config, saved)
    require_same_files(saved.data, manifest)
    yield Check("ok", "resume", f"the job would go on after step {saved.step}")


def _tracking(config: RunConfig) -> Iterator[Check]:
    from dist_calo.tracking.store import why_unreachable
    from dist_calo.tracking.store_uri import checked_uri

    uri = config.tracking.uri
    if uri == "none":
        yield Check("--", "tracking", "switched off")
        return
    if checked_uri(uri).startswith("sqlite:"):
        yield Check("ok", "tracking", f"{uri} can be written")
        return
    reason = why_unreachable(uri)
    if reason is None:
        yield Check("ok", "tracking", f"{uri} answers")
    else:
        advice = f"the job would run and keep its record in {config.tracking.spool} for dist-calo runs sync"
        yield Check("--", "tracking", f"{uri} does not answer ({reason}): {advice}")


def _checkpoints(config: RunConfig) -> Iterator[Check]:
    from dist_calo.training.checkpoint_folder import CheckpointFolder

    folder = Path(config.checkpoint.dir).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    setting = f"checkpoint.dir={config.checkpoint.dir}"
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Check("FAIL", "checkpoint", f"{setting}: {existing} cannot be written; name another folder")
        return
    steps, resume = CheckpointFolder(folder).steps(), config.checkpoint.resume
    if steps and resume == "no":
        yield _held(config, f"{setting} holds checkpoints up to step {steps[-1]}")
    elif steps and resume != "auto" and Path(resume).resolve().parent != folder.resolve():
        advice = f"checkpoint.resume={resume} is not one of them: name another folder"
        yield Check("FAIL", "checkpoint", f"{setting} holds checkpoints and {advice}")
    else:
        yield Check("ok", "checkpoint", f"{folder} can be written")


def _held(config: RunConfig, found: str) -> Check:
    """Judge a folder with checkpoints where the job would start anew: it has to be told to go on, where it can."""
    from dist_calo.training.checkpoint import Checkpoint
    from dist_calo.training.checkpoint_folder import CheckpointFolder
    from dist_calo.training.restore import require_same_run

    try:
        state = CheckpointFolder(config.checkpoint.dir).newest()
        if state is not None:
            require_same_run(config, Checkpoint.from_dict(state))
    except CheckpointError as error:
        return Check("FAIL", "checkpoint", f"{found} of another run: name another folder ({error})")
    advice = "continue with --checkpoint.resume=auto, or name another folder to start anew"
    return Check("--", "checkpoint", f"{found}: {advice}")


PROBES: dict[str, Callable[[RunConfig], Iterator[Check]]] = {
    "versions": _versions,
    "Open MPI": _mpi,
    "Horovod": _horovod,
    "GPU": _gpus,
    "data": _data,
    "tracking": _tracking,
    "checkpoint": _checkpoints,
}
"""Probes of rank 0, in the order of the report."""
PROBES_OF_DATA: dict[str, Callable[[RunConfig, "Manifest"], Iterator[Check]]] = {
    "model": _model,
    "batches": _batches,
    "resume": _resume,
}
"""Probes that need the data, made where these can be read."""
