"""Build Horovod for this environment: ``dist-calo horovod build [--mpi system]``."""

import subprocess
import sys
from collections.abc import Sequence

from dist_calo.errors import ConfigError
from dist_calo.resources import resource

USAGE = """usage: dist-calo horovod build [OPTIONS]

Compiles Horovod against the PyTorch and the MPI of this environment, keeps the wheel in a cache and installs it: about
five minutes on two cores the first time, seconds afterwards. Needs a C++ compiler. `dist-calo horovod build --help`
shows the options."""


def main(arguments: Sequence[str]) -> int:
    """Run the builder and return its exit code.

    Raises:
        ConfigError: if there is no such verb.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] != "build":
        raise ConfigError(f"horovod {arguments[0]}: there is no such verb; the verb is build")
    return subprocess.run(
        [sys.executable, str(resource("tools/build_horovod.py")), *arguments[1:]]
    ).returncode
