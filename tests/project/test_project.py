"""What holds for the project as a whole: light imports, layers, file sizes, one version, the Makefile's targets."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dist_calo
from tests.support.components import COMPONENTS, is_required, missing

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("dist_calo", "tools", "tests") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "mlflow", "matplotlib", "mpi4py", "horovod", "h5py")


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        **({"cwd": ROOT} | options),
    )


def loaded_by(statement: str) -> set[str]:
    """The heavy modules that a fresh interpreter holds after ``statement``."""
    report = f"print('loaded:', *(set({HEAVY!r}) & set(sys.modules)))"
    answer = run(sys.executable, "-c", f"import sys\n{statement}\n{report}")
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.rpartition("loaded:")[2].split())


def test_import_loads_nothing_heavy():
    assert loaded_by("import dist_calo") == set()


@pytest.mark.parametrize(
    "command",
    [
        ["dist_calo", "--help"],
        ["dist_calo", "train", "--help"],
        ["dist_calo", "data", "--help"],
        ["dist_calo", "generate", "--help"],
        ["dist_calo", "simulate", "--help"],
        ["dist_calo", "launch", "--help"],
        ["dist_calo.train", "--help"],
        ["dist_calo.cli.generate", "--help"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(command):
    module, *arguments = command
    statement = (
        "import runpy\n"
        f"sys.argv = ['program', *{arguments!r}]\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    assert loaded_by(statement) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_file(path):
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= 400, f"{len(lines)} lines: split the file"
    if path.parts[len(ROOT.parts)] != "tests":
        assert text.lstrip().startswith(('"""', "#!")), "the module has no docstring"
    notes = re.findall(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b", text)
    assert not notes


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.is_relative_to(ROOT / "tests")], ids=lambda path: path.name
)
def test_only_the_requires_marker_skips(path):
    if path.name == "conftest.py":
        return
    found = re.findall(r"importor" r"skip|pytest\.ski" r"p\(|mark\.ski" r"p", path.read_text())
    assert not found, (
        "use @pytest.mark.requires(component), which continuous integration turns into a failure"
    )


def test_imports_point_downward():
    answer = run(Path(sys.executable).parent / "lint-imports", "--no-cache")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_one_version():
    setup = (ROOT / "setup.cfg").read_text()
    assert f"\nversion = {dist_calo.__version__}\n" in setup
    assert f"## {dist_calo.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {dist_calo.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_what_is_imported_is_declared():
    """Packages that come along with others by chance may stay away tomorrow."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = "\n".join([setup["options"]["install_requires"], *setup["options.extras_require"].values()])
    declared = {
        name.lower().replace("-", "_") for name in re.findall(r"^[A-Za-z][\w-]*", lines, re.MULTILINE)
    }
    # `dist-calo horovod build` makes it.
    declared |= {"horovod", "dist_calo"}
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "dist_calo").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and node.module
            else []
        )
    } - set(sys.stdlib_module_names)
    brought_by = packages_distributions()
    names = {name: brought_by.get(name, [name]) for name in imported}
    assert {
        name for name, by in names.items() if not {each.lower().replace("-", "_") for each in by} & declared
    } == set()


def test_extras_are_documented():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    told = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE))
    assert told == set(setup["options.extras_require"])


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "check", "lint", "horovod", "ui", "bench", "clean"]
)
def test_makefile_has_target(target):
    answer = run("make", "--dry-run", target)
    assert answer.returncode == 0, answer.stderr
    assert f"make {target} " in run("make", "help").stdout


@pytest.mark.parametrize("wrong", ["MPI=openmpi", "HOROVOD=maybe"])
def test_makefile_refuses_unknown_choices(wrong):
    answer = run("make", "--dry-run", "setup", wrong)
    assert answer.returncode == 2
    assert f"{wrong}: choose" in answer.stderr


REQUIRES = """
import pytest
from dataclasses import replace
from tests.support import components

components.COMPONENTS["slurm"] = replace(components.COMPONENTS["slurm"], found=lambda: False)

@pytest.mark.requires("slurm")
def test_on_a_cluster():
    pass

def test_anywhere():
    pass
"""


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ("", "1 passed, 1 skipped"),
        ("mpi", "1 passed, 1 skipped"),
        ("all", "1 passed, 1 error"),
        ("mpi,slurm", "1 passed, 1 error"),
    ],
)
def test_require_turns_skips_into_failures(tmp_path, monkeypatch, value, outcome):
    monkeypatch.setenv("DIST_CALO_REQUIRE", value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "test_inner.py").write_text(REQUIRES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = requires(component): needs it\n")
    answer = run(
        sys.executable, "-m", "pytest", "-ra", "-p", "tests.conftest", "-p", "no:cacheprovider", cwd=tmp_path
    )
    assert f"{outcome} in" in answer.stdout, answer.stdout + answer.stderr
    assert "slurm is missing: run as root, with Debian" in answer.stdout


def test_hardware_is_required_by_name_only():
    assert not is_required("gpu", {"DIST_CALO_REQUIRE": "all"})
    assert is_required("gpu", {"DIST_CALO_REQUIRE": "all,gpu"})
    assert is_required("mpi", {"DIST_CALO_REQUIRE": "all"})
    assert not is_required("mpi", {})


def test_unknown_components_are_refused():
    with pytest.raises(ValueError, match="no such component; there are horovod, mpi"):
        missing("infiniband")
    with pytest.raises(ValueError, match="DIST_CALO_REQUIRE=hvd: choose from all, horovod"):
        is_required("mpi", {"DIST_CALO_REQUIRE": "hvd"})


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=COMPONENTS)
def test_components_answer(component):
    assert component.found() in (True, False)


def prose(path: Path) -> list[str]:
    """The lines of a Markdown file outside of code and tables."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith(("    ", "|"))]


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
)
def test_lines_of_prose_are_short(path):
    assert [line for line in prose(path) if len(line) > 100] == []
