"""Reading settings: file, overrides, and one clear line for what is wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache

import pytest
import yaml

from dist_calo.__main__ import main as dist_calo
from dist_calo.cli import demo
from dist_calo.cli.command_line import build_config, config_parser, run_command
from dist_calo.cli.rank_runner import add_launch_option, on_ranks
from dist_calo.errors import EXIT_USER, ConfigError
from dist_calo.files import write_whole
from dist_calo.launching.local import start
from dist_calo.train import main as train


@cache
def parser():
    made = config_parser("test", "a test")
    add_launch_option(made)
    return made


def parsed(*arguments):
    return build_config(parser(), parser().parse_args(list(arguments)))


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
    assert "configs, train, status" in capsys.readouterr().err


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
        config = parsed(*given)
        assert (config.train.max_steps, config.train.seed) == (3, 5)


def test_the_length_of_a_run_is_given_once(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  max_steps: 7\n  max_epochs: 4\n")

    def lengths(*given):
        train = parsed(f"--config={path}", *given).train
        return train.max_steps, train.max_epochs

    assert lengths() == (7, 4.0)
    assert lengths("--train.max_steps=3") == (3, None)
    assert lengths("--train.max_epochs=2") == (7, 2.0)
    assert lengths("--train.max_epochs=null") == (7, None)
    assert lengths("--train.max_epochs=null", "--train.max_steps=3") == (3, None)
    with pytest.raises(ConfigError, match=r"train\.max_steps=3 and train\.max_epochs=2: both say"):
        lengths("--train.max_epochs=2", "--train.max_steps=3")


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
    assert run_command("program", lambda line: on_ranks("program", line, command, lambda *_: 0), []) == 130
    assert capsys.readouterr().err == "program: interrupted before it began: nothing was written\n"


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "train.max_stepz",
            "train.max_step",
            "max_steps",
            "optimizer.lr",
            "traking.uri",
            "data",
            "checkpoint.resum",
        ),
        *("model.option.x", "tracking", "x" * 5000, "é", "train.", ".seed", "launch_", "1"),
    ],
)
@pytest.mark.parametrize("where", ["line", "file"])
def test_the_nearest_name_is_one_that_can_be_used(wrong, where, tmp_path):
    def refusal(name):
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps({name: 1}))
        try:
            parser().parse_args([f"--{name}=1"] if where == "line" else [f"--config={file}"])
        except ConfigError as error:
            return str(error)
        return ""

    said = refusal(wrong)
    assert 0 < len(said) < 400
    if "the nearest is" in said:
        nearest = said.partition("the nearest is ")[2].split()[0]
        again = refusal(nearest)
        assert not again or f"{nearest}=1: " in again  # the name is known, and 1 may be none of its values


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        (["--train.seed"], "write --train.seed=VALUE", ["--train.seed=3"]),
        (["--train.seed=many"], "a whole number, such as 1000", ["--train.seed=1000"]),
        (["--train.ema_decay=little"], "a number, such as 0.001", ["--train.ema_decay=0.001"]),
        (["--train.seed=017"], "octal: 0o17", ["--train.seed=0o17"]),
        (["--comm.overlap=perhaps"], "true or false", ["--comm.overlap=false"]),
        (["--comm.wire=fp8"], "choose from fp32, bf16, fp16", ["--comm.wire=bf16"]),
        (["--data.path", "a", "b"], "--data.path='[FILE, FILE]'", ["--data.path=[a, b]"]),
        (["--model.options=3"], "such as {NAME: VALUE}", ["--model.options={latent: 3}"]),
        (["--data.path=[]"], "must name at least one file", ["--data.path=[a]"]),
        (["--optimizer.learning_rate=.inf"], "a number, such as 0.001", ["--optimizer.learning_rate=0.001"]),
        (["--optimizer.learning_rate=1e300"], "about 3.4e38", ["--optimizer.learning_rate=3.3e38"]),
        (["--train.global_batch_size=1e18"], "at most 16,777,216", ["--train.global_batch_size=16777216"]),
        (["--comm.timeout_s=1e30"], "at most 100,000,000", ["--comm.timeout_s=1e8"]),
        (["--train.seed=1e30"], "below 2**64", [f"--train.seed={2**64 - 1}"]),
        (["--tracking.experiment=null"], "in quotes", []),
    ],
)
def test_the_advice_is_true(wrong, said, right):
    with pytest.raises(ConfigError) as caught:
        parsed(*wrong)
    assert said in str(caught.value)
    parsed(*right)


def test_several_globs_are_one_setting():
    for given in ("--data.path=[a/*.h5,b.h5]", "--data.path=['a/*.h5', b.h5]", "--data.path=[*.h5, b.h5]"):
        assert parsed(given).data.patterns == [given.partition("[")[2].split(",")[0].strip("'"), "b.h5"]
    assert parsed("--data.path=[ab]*.h5").data.patterns == ["[ab]*.h5"]
    assert parsed("--data.path", "a.h5").data.path == "a.h5"


@pytest.mark.parametrize(
    "given",
    [
        *(
            "--checkpoint.resume=no",
            "--tracking.run_name=1234",
            "--tracking.experiment=yes",
            "--train.max_steps=1e5",
        ),
        *("--train.max_steps=1_000", "--tracking.run_name=1e3", "--comm.threads=null", "--comm.overlap=no"),
        *("--train.seed='5'", "--model.options.name=no", "--tracking.run_name=0123", "--data.path=[a.h5, 1]"),
    ],
)
def test_a_file_and_the_command_line_mean_the_same(given, tmp_path):
    name, _, text = given.removeprefix("--").partition("=")
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {text}")
    if "'" not in text:
        assert parsed(f"--config={file}") == parsed(given)
    config = parsed(f"--config={file}")
    printed = tmp_path / "printed.yaml"
    printed.write_text(yaml.safe_dump(config.to_dict()))
    assert parsed(f"--config={printed}") == config


@pytest.mark.parametrize("code", [75, 130])
def test_a_demo_that_is_asked_to_stop_leaves_with_the_code_of_its_training(code, monkeypatch):
    monkeypatch.setattr(demo, "start", lambda _: start([sys.executable, "-c", f"raise SystemExit({code})"]))
    assert demo.main([]) == code
