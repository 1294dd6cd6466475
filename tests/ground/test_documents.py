"""Texts that a user names: read within bounds, one clear line for what is wrong, values by their declared type."""

import os
import random
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from dist_calo.cli.command_line import build_config, config_parser
from dist_calo.config import RunConfig, kind_of, setting_names
from dist_calo.data.formats.binning import read_binning
from dist_calo.data.manifest import read_manifest
from dist_calo.deployment.registry import read_metrics
from dist_calo.documents import load_yaml, read_text
from dist_calo.errors import ConfigError, UserError
from dist_calo.scaling.plan import read_plan
from dist_calo.sweeping.definition import read_sweep
from dist_calo.values import Word, value_of

CONFIGS = Path(__file__).parents[2] / "configs"


PARSER = config_parser("test", "a test")


def read_settings(path, *options):
    return build_config(PARSER, PARSER.parse_args([f"--config={path}", *options]))


def read_plan_file(path):
    folder = path.parent / "plan"
    folder.mkdir(exist_ok=True)
    (folder / "plan.yaml").unlink(missing_ok=True)
    (folder / "plan.yaml").symlink_to(path)
    return read_plan(folder)


READERS = {
    "settings": read_settings,
    "sweep": read_sweep,
    "plan": read_plan_file,
    "manifest": read_manifest,
    "binning": read_binning,
    "metrics": read_metrics,
}


def bomb(levels=9, width=9):
    lines = ["a0: &a0 [" + ",".join("x" * width) + "]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


ENTITIES = (
    "<!DOCTYPE Bins [<!ENTITY a0 'lol'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
    + "]><Bins>&a11;</Bins>"
)
BAD = {
    "not UTF-8": b"train:\n  seed: \xff\n",
    "UTF-16": "train: {seed: 1}".encode("utf-16"),
    "a zero byte": b"train:\n  seed: \x00\n",
    "a tab": b"train:\n\tseed: 1\n",
    "a list": b"- 1\n",
    "a word": b"train\n",
    "brackets without end": b"[" * 100_000,
    "deep": b"{a: " * 500 + b"1" + b"}" * 500,
    "aliases that multiply": bomb().encode(),
    "an alias of itself": b"train: &a\n  x: *a\n",
    "an alias of nothing": b"data: {path: *.h5}\n",
    "an object": b"train: !!python/object/apply:os.system [id]\n",
    "twice": b"train: {seed: 1}\ntrain: {seed: 2}\n",
    "two documents": b"train: {seed: 1}\n---\ntrain: {seed: 2}\n",
    "a list as name": b"[a, b]: 1\n",
    "entities that multiply": ENTITIES.encode(),
    "numbers of 5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "too large": b"#" + b" " * 2**21,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bad", BAD)
def test_bad_texts_are_one_line_that_names_the_file(reader, bad, tmp_path):
    path = tmp_path / "some.file"
    path.write_bytes(BAD[bad])
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    assert "some.file" in str(caught.value) or "plan.yaml" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(reader, tmp_path):
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**31)
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero"), sparse):
        with pytest.raises(UserError):
            READERS[reader](path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"train:\n  seed: \xff\n", 2),
        (b"train:\n  seed: 1\n  seed: 2\n", 3),
        (b"train:\n  seed: 1\n  sead: 2\n", 3),
        (b"train:\n  seed: many\n", 2),
        (b"train:\n  seed: 1\n x: [\n", 3),
        (b"train:\n  seed: !!python/name:os.system ''\n", 2),
    ],
)
def test_errors_in_settings_name_the_line(text, line, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=f"run.yaml, line {line}: "):
        read_settings(path)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "train:\n", "train:\ndata: {}\n", "\ufefftrain: {}\n", "---\n"]
)
def test_what_says_nothing_sets_nothing(text, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_settings(path) == RunConfig()


def test_anchors_and_merge_keys_work(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "objective: &one {energy_weight: 2}\ntrain: {seed: 3}\nmodel:\n  options: &o {a: 1, b: 2}\n"
    )
    assert read_settings(path).model.options == {"a": 1, "b": 2}
    path.write_text("model:\n  options:\n    x: &o {a: 1, b: 2}\n    y: {<<: *o, b: 3}\n")
    assert read_settings(path).model.options["y"] == {"a": 1, "b": 3}


def test_a_pipe_is_read_until_its_end_and_not_waited_for_without_end(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, b"train: {seed: 5}")
    os.close(writing)
    assert read_settings(f"/dev/fd/{reading}").train.seed == 5
    os.close(reading)
    monkeypatch.setattr("dist_calo.documents.PIPE_WITHIN_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="nobody writes to this pipe"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (str, "no", "no"),
        (str, "1234", "1234"),
        (str, "1e3", "1e3"),
        (str, "2024-01-01", "2024-01-01"),
        (str, "010", "010"),
        (str | None, "yes", "yes"),
        (str | None, "null", None),
        (str | None, "~", None),
        (str | None, "'null'", "null"),
        (int, "1e5", 100_000),
        (int, "1_000", 1000),
        (int, "'5'", 5),
        (int, "5.0", 5),
        (int, "0x10", 16),
        (int, "-3", -3),
        (int | None, "null", None),
        (float, "1e-4", 1e-4),
        (float, "1", 1.0),
        (float, "'0.5'", 0.5),
        (float, ".5", 0.5),
        (bool, "no", False),
        (bool, "On", True),
        (bool, "'true'", True),
        (Literal["none", "no"], "No", "no"),
        (Literal["no", "auto"] | str, "false", "no"),
        (Literal["no", "auto"] | str, "AUTO", "auto"),
        (Literal["no", "auto"] | str, "a/No.pt", "a/No.pt"),
        (Literal["x"] | None, "X", "x"),
        (Literal["x"] | None, "~", None),
        (dict[str, float], "{a: 1, 2: 1e-3}", {"a": 1.0, "2": 1e-3}),
        (dict[str, float], "", {}),
        (str | list[str], "[a.h5, 3]", ["a.h5", "3"]),
        (str | list[str], "a.h5", "a.h5"),
        (Any, "1e-4", 1e-4),
        (Any, "12", 12),
        (Any, "no", False),
        (Any, "'no'", "no"),
        (Any, "1:30", "1:30"),
        (Any, "2024-01-01", "2024-01-01"),
        (Any, "[1, null, x]", [1, None, "x"]),
    ],
)
def test_a_value_means_what_its_type_says(kind, text, value, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"x: {text}")
    found = value_of(kind, load_yaml(path)["x"], "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *[
            (int, text)
            for text in ("010", "1:30", "1.5", "five", "null", "1e30", "9" * 400, "nan", "true", "[1]", "{}")
        ],
        *[(float, text) for text in ("1e400", ".inf", "nan", "-.INF", "9" * 400, "1:30", "yes", "''", "0 1")],
        *[(bool, text) for text in ("2", "maybe", "null", "[yes]")],
        *[(str, text) for text in ("null", "~", "[a]", "{a: 1}", "")],
        (Literal["fp32", "bf16"], "fp8"),
        (dict[str, float], "[1]"),
        (dict[str, float], "{a: x}"),
        (Any, "1e999"),
        (Any, "0123"),
    ],
)
def test_a_value_without_a_clear_meaning_is_refused_with_its_line(kind, text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"x: {text}")
    with pytest.raises(ConfigError, match=r"^x"):
        value_of(kind, load_yaml(path)["x"], "x")


def test_the_defaults_are_values_of_their_types():
    defaults = RunConfig()
    for name in setting_names():
        section, setting = name.split(".")
        value = getattr(getattr(defaults, section), setting)
        assert value_of(kind_of(name), value, name) == value
        if not isinstance(value, dict):
            text = "null" if value is None else str(value)
            assert value_of(kind_of(name), Word(text), name) == value


WORDS = (
    *(
        b"[",
        b"{",
        b"}",
        b"]",
        b": ",
        b"&a ",
        b"*a",
        b"\n",
        b"\t",
        b"- ",
        b"!!int ",
        b"|\n",
        b"'",
        b'"',
        b"<<: ",
    ),
    *(
        b"no",
        b"null",
        b"9" * 400,
        b"1e400",
        b"\xff",
        b"\x00",
        b"#",
        b"? ",
        b"---\n",
        b"...\n",
        b"%YAML",
        b"@",
        b"0x",
    ),
)


def mutated(data, chance):
    """A text with one to three places changed."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data = data[:place] + chance.choice(WORDS) + data[place:]
            case 1:
                data = data[:place] + data[place + chance.randrange(20) :]
            case 2:
                data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
            case 3:
                other = chance.randrange(len(data) + 1)
                data = data[:place] + data[other : other + 40] + data[place:]
    return data


@pytest.mark.parametrize("reader", ["settings", "sweep"])
def test_mutated_files_are_read_or_refused_in_one_line(reader, tmp_path):
    chance = random.Random(11)
    texts = [
        path.read_bytes() for path in sorted(CONFIGS.glob("sweeps/*" if reader == "sweep" else "*.yaml"))
    ]
    path = tmp_path / "run.yaml"
    refusals = []
    for _ in range(150):
        path.write_bytes(mutated(chance.choice(texts), chance))
        try:
            READERS[reader](path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert max(map(len, refusals)) < 600
