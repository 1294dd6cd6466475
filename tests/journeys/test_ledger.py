"""A ledger through the life of a run: another run, damage, a torn end."""

import pytest

from dist_calo.errors import EXIT_USER
from dist_calo.train import main as train
from tests.support.small_runs import ledger_sets, train_command, write_showers


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The trainer's command line, by folder of the checkpoints; all with one ledger."""
    folder = tmp_path_factory.mktemp("runs with a blank")
    data = write_showers(folder / "data")
    fixed = ["--tracking.uri=none", "--comm.threads=1", "--data.validation_fraction=0"]

    def line(where, steps, *more):
        given = [f"--data.ledger={folder / 'ledger'}", f"--train.max_steps={steps}", *more]
        return train_command(data, folder / where, *fixed, *given)[3:]

    return folder, line


def test_a_ledger_is_kept_through_all_that_happens_to_it(command, capsys):
    folder, line = command
    file = folder / "ledger" / "rank-00000.tsv"
    assert train(line("one", 4)) == 0
    kept = file.read_text()
    assert train(line("two", 2, "--checkpoint.resume=auto")) == EXIT_USER
    said = capsys.readouterr().err
    assert f"{folder / 'one'}" in said
    assert f"{folder / 'two'}" in said
    assert said.count("\n") == 1
    assert file.read_text() == kept
    assert not (folder / "two" / "checkpoints").exists()
    lines = kept.splitlines(keepends=True)
    file.write_text("".join([*lines[:3], "\0" * 20 + "\n"]))
    assert train(line("one", 6, "--checkpoint.resume=auto")) == EXIT_USER
    assert f"{file}, line 4: " in capsys.readouterr().err
    file.write_text(kept + "0\t5\t1,2\0\0\0")
    assert train(line("one", 6, "--checkpoint.resume=auto")) == 0
    assert file.read_text().startswith(kept)
    assert [step for _, step in ledger_sets(folder)] == list(range(1, 7))
