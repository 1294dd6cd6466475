import json

import pytest

from dist_calo.cli.command_line import run_command
from dist_calo.cli.runs import main
from dist_calo.tracking.journal import Journal
from dist_calo.tracking.spool import Spool
from tests.support.mlflow_store import Store, made_store
from tests.support.ranks import free_port


def run(*arguments):
    return run_command("dist-calo runs", main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return made_store(tmp_path_factory.mktemp("store"))


def killed_job(root, uri, experiment):
    """The spool of a job that was killed before its store answered, in the middle of a line."""
    spool = Spool.open(root, None, {"uri": uri, "experiment": experiment, "run_name": "lost"})
    start = {"kind": "start", "time_ms": spool.identity.started_ms, "parameters": {"train.seed": 7}}
    spool.journal.append([{**start, "tags": {}, "datasets": {}}, point(spool, 1)])
    with (spool.folder / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(point(spool, 2))[:20])
    return spool


def point(spool, step):
    return {
        "kind": "metrics",
        "time_ms": spool.identity.started_ms + step,
        "step": step,
        "values": {"loss": 0.5},
    }


@pytest.mark.parametrize("arguments", [[], ["show"], ["sync", "--nonsense"]])
def test_a_wrong_command_is_one_message(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert "usage: dist-calo runs" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_an_error(tmp_path, capsys):
    assert run("sync", "--spool", tmp_path / "mistyped") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "mistyped: there is no such folder" in line


def test_a_store_that_cannot_be_is_an_error(tmp_path, capsys):
    assert run("sync", "--spool", tmp_path, "--tracking.uri", "nonsense://somewhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tracking.uri=nonsense://somewhere: not a tracking store" in line


def test_nothing_to_send_is_no_error(tmp_path, monkeypatch, capsys):
    assert run("sync", "--spool", tmp_path) == 0
    assert f"nothing to send in {tmp_path}" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert run("sync") == 0
    assert "nothing to send: there is no folder spool here" in capsys.readouterr().out


def test_a_killed_job_is_sent_to_another_store(uri, tmp_path, capsys):
    spool = killed_job(tmp_path, f"http://127.0.0.1:{free_port()}", "killed")
    assert run("sync", "--spool", tmp_path, "--tracking.uri", uri) == 0
    sent = Store(uri).only_run("killed")
    assert f"run {sent.info.run_id}: 3 records sent to {uri}" in capsys.readouterr().out
    assert sent.info.status == "KILLED"
    assert sent.info.run_name == "lost"
    assert sent.data.params == {"train.seed": "7"}
    assert Store(uri).points(sent.info.run_id, "loss") == [(1, 0.5)]
    assert not spool.folder.exists()


def test_what_waits_is_said_and_kept(tmp_path, capsys):
    killed_job(tmp_path, f"http://127.0.0.1:{free_port()}", "away")
    for _ in range(2):
        assert run("sync", "--spool", tmp_path) == 1
        assert "3 records wait" in capsys.readouterr().out


def test_a_running_job_goes_on_writing_what_is_sent(uri, tmp_path, capsys):
    spool = killed_job(tmp_path, uri, "running")
    assert spool.lock.acquire()
    for step in (2, 3):
        assert run("sync", "--spool", tmp_path) == 0
        assert "its job is still running" in capsys.readouterr().out
        spool.journal.append([point(spool, step)])
    assert run("sync", "--spool", tmp_path, "--tracking.uri", made_store(tmp_path)) == 1
    assert f"records to {uri}" in capsys.readouterr().out
    assert Store(uri).only_run("running").info.status == "RUNNING"

    spool.journal.append([{"kind": "end", "time_ms": spool.identity.started_ms + 9, "status": "FINISHED"}])
    spool.lock.release()
    assert run("sync", "--spool", tmp_path) == 0
    sent = Store(uri).only_run("running")
    assert sent.info.status == "FINISHED"
    assert Store(uri).points(sent.info.run_id, "loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert not spool.folder.exists()


def test_what_another_process_sends_is_left_to_it(uri, tmp_path, capsys):
    spool = killed_job(tmp_path, uri, "sent twice")
    with spool.journal.sending() as alone:
        assert alone
        assert run("sync", "--spool", tmp_path) == 1
    assert "another process is sending it" in capsys.readouterr().out
    assert Store(uri).runs("sent twice") == []


def test_sending_stopped_in_the_middle_goes_on_where_it_was(uri, tmp_path, monkeypatch):
    spool = killed_job(tmp_path, uri, "interrupted")
    spool.journal.append([point(spool, step) for step in range(2, 2502)])
    confirm = Journal.confirm

    def interrupted(self, position):
        if position > 100_000:
            raise KeyboardInterrupt
        confirm(self, position)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "confirm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(["sync", "--spool", str(tmp_path)])
    assert spool.folder.exists()
    assert run("sync", "--spool", tmp_path) == 0
    sent = Store(uri).only_run("interrupted")
    assert [step for step, _ in Store(uri).points(sent.info.run_id, "loss")] == list(range(1, 2502))


def test_a_finished_run_stays_finished_while_its_files_are_offered_again(tmp_path):
    spool = killed_job(tmp_path, "http://server:5000", "refused")
    spool.journal.append([{"kind": "end", "time_ms": spool.identity.started_ms + 9, "status": "FINISHED"}])
    spool.refuse({"kind": "artifact", "file": "files/1/a.png", "folder": None}, "no space")
    spool.offer_again()
    *_, offered, last = (record for record, _ in spool.journal.unsent())
    assert (offered["kind"], last["kind"], last["status"]) == ("artifact", "end", "FINISHED")


def test_what_waits_is_listed(tmp_path, capsys):
    spool = killed_job(tmp_path, "http://server:5000", "listed")
    spool.journal.append([{"kind": "artifact", "file": "files/1/a.png", "folder": None}])
    assert run("list", "--spool", tmp_path) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"{spool.identity.spool_id}  killed: 1 points and 1 files wait, 0.0 MB, for http://server:5000"
    )
    assert spool.lock.acquire()
    assert run("list", "--spool", tmp_path) == 0
    assert "running" in capsys.readouterr().out
    spool.lock.release()


def test_a_lost_confirmation_doubles_nothing(uri, tmp_path):
    """The store took the records, and the process was killed before it wrote that down."""
    spool = killed_job(tmp_path / "one", uri, "twice")
    again = tmp_path / "two" / spool.identity.spool_id
    again.mkdir(parents=True)
    for name in ("run.json", "journal.jsonl"):
        (again / name).write_bytes((spool.folder / name).read_bytes())
    assert run("sync", "--spool", tmp_path / "one") == 0
    assert run("sync", "--spool", tmp_path / "two") == 0
    sent = Store(uri).only_run("twice")
    assert Store(uri).points(sent.info.run_id, "loss") == [(1, 0.5)]
