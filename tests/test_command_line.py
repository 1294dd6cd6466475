"""Reading settings: file, overrides, and one clear line for what is wrong."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from dist_calo.__main__ import main as dist_calo
from dist_calo.command_line import build_config, config_parser, run_command
from dist_calo.errors import EXIT_USER, ConfigError
from dist_calo.files import write_whole
from dist_calo.train import main as train


def parsed(*arguments):
    parser = config_parser("test", "a test")
    return build_config(parser, parser.parse_args(list(arguments)))


def test_a_file_is_read_and_the_command_line_overrides_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  max_steps: 7\n  seed: 5\noptimizer:\n  network_factors:\n    generator: 0.5\n")
    config = parsed("--config", str(file), "--train.seed=9", "--model.options.latent=3")
    assert (config.train.max_steps, config.train.seed) == (7, 9)
    assert config.optimizer.network_factors == {"generator": 0.5}
    assert config.model.options == {"latent": 3}


def test_the_printed_configuration_is_read_back_to_the_same(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed("--train.max_steps=7", "--print_config")
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert yaml.safe_load(file.read_text())["train"]["max_steps"] == 7
    assert parsed("--config", str(file)) == parsed("--train.max_steps=7")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--train.max_stepz=3"],
            "train.max_stepz: there is no such setting; the nearest is train.max_steps",
        ),
        (["--train.max_step=3"], "train.max_step: there is no such setting; the nearest is train.max_steps"),
        (["--train.max_steps=three"], "three"),
        (["--train.precision=fp8"], "fp8"),
        (["--train.ema_decay=2"], "train.ema_decay=2.0: must be at least 0 and below 1"),
        (["--config=/nowhere.yaml"], "/nowhere.yaml"),
        (["--launch=0"], "--launch 0"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(arguments, expected, capsys):
    assert train(arguments) == EXIT_USER
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert expected in lines[0]


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("optimizer:\n  learning_rat: 1e-3\n")
    assert train(["--config", str(file)]) == EXIT_USER
    assert "the nearest is optimizer.learning_rate" in capsys.readouterr().err


def test_a_user_error_is_one_line(capsys):
    def command(_):
        raise ConfigError("value 3:\n must be 4")

    assert run_command("tool", command, []) == EXIT_USER
    assert capsys.readouterr().err == "tool: value 3: must be 4\n"


def test_an_unknown_command_lists_the_choices(capsys):
    assert dist_calo(["trane"]) == EXIT_USER
    assert "train, launch, generate" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["dist_calo", "dist_calo.train"])
def test_help_loads_no_heavy_library(module):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as left:\n"
        "    assert not left.code, left.code\n"
        "heavy = {'torch', 'mlflow', 'matplotlib', 'h5py', 'horovod', 'mpi4py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_an_option_overrides_a_file_wherever_it_stands(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  max_steps: 7\n  seed: 5\n")
    for given in (
        ["--train.max_steps=3", "--config", str(path)],
        [f"--config={path}", "--train.max_steps=3"],
        ["--train.max_steps", "3", f"--config={path}"],
    ):
        parser = config_parser("test", "a test")
        config = build_config(parser, parser.parse_args(given))
        assert (config.train.max_steps, config.train.seed) == (3, 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_leaves_nothing_half_written(number, tmp_path):
    class Dropped:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0)  # the signal's exception comes here, where Python drops it

    def command(_arguments):
        with write_whole(tmp_path / "showers.h5") as temporary:
            temporary.write_text("some")
            dropped = Dropped()
            del dropped
            assert not threading.Event().wait(10)
        return 0

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit, match=str(128 + number)):
            run_command("program", command, [])
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_one_line_and_a_code_of_its_own(capsys):
    def command(_arguments):
        raise KeyboardInterrupt

    assert run_command("program", command, []) == 130
    assert capsys.readouterr().err == "program: interrupted\n"
