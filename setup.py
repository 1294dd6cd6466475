"""Build step that puts what users read and edit into the wheel; all else about the package stands in setup.cfg."""

from glob import glob
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGED = (
    "configs/**/*.yaml",
    "constraints.txt",
    "data/sample/README.md",
    "data/sample/EleEscan_lcd25_0.h5",
    "docker/*",
    "launch/**/*",
    "slurm/*.sh",
    "slurm/site.env.example",
    "tools/build_horovod.py",
)
"""Files of the checkout that go to dist_calo/packaged; `dist_calo.resources` finds them there."""


class BuildWithResources(build_py):
    """Step that copies the package, and these files below it; an editable install uses them where they are."""

    def run(self) -> None:
        """Copy the package's modules and the files."""
        super().run()
        if not self.editable_mode:
            for source, target in self._resources().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """Return all that a source distribution needs to build the same wheel."""
        return [*super().get_source_files(), *self._resources()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that were made."""
        own = [] if self.editable_mode else list(self._resources().values())
        return [*super().get_outputs(include_bytecode), *own]

    def _resources(self) -> dict[str, str]:
        found = {
            path for pattern in PACKAGED for path in glob(pattern, recursive=True) if Path(path).is_file()
        }
        empty = [pattern for pattern in PACKAGED if not glob(pattern, recursive=True)]
        if empty:
            raise FileNotFoundError(f"{', '.join(empty)}: no such file here; build from a whole checkout")
        return {path: str(Path(self.build_lib, "dist_calo", "packaged", path)) for path in sorted(found)}


setup(cmdclass={"build_py": BuildWithResources})
