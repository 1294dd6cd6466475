"""Output that nobody takes: closed, refused, full, not read, or unable to spell; each in a process of its own."""

import os
import pty
import signal
import subprocess
import sys

import pytest

SPEAK = """
import os, sys
from dist_calo.launching import early_signals
early_signals.guard_output(of_run={of_run})
early_signals.PATIENCE_S = 0.2
{body}
print("step 1: Müller, ∑ of 数 and \\udcff", flush=True)
print("error ∑", file=sys.stderr)
os.fstat(0), os.fstat(1), os.fstat(2)
sys.stdout.buffer.write(b"bytes\\n")
"""


def speak(redirection: str, body: str = "", *, of_run: bool = True, **options) -> subprocess.CompletedProcess:
    """A process that writes on both streams, with these redirections of a shell, and ends by itself."""
    program = SPEAK.format(body=body, of_run=of_run)
    return subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, program],
        capture_output=True,
        timeout=30,
        **options,
    )


@pytest.mark.parametrize("options", ["", "-u"])
@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (
            ">/dev/full",
            b"standard output: No space left on device; going on without it\nerror \xe2\x88\x91\n",
        ),
        (">&-", b"error \xe2\x88\x91\n"),
        ("1</dev/null", b"standard output: Bad file descriptor; going on without it\nerror \xe2\x88\x91\n"),
        (">&- 2>&- <&-", b""),
        (">/dev/full 2>&1", b""),
    ],
)
def test_an_output_that_cannot_be_written_is_said_once_where_there_is_a_place(redirection, said, options):
    answer = speak(redirection, env=os.environ | {"PYTHONUNBUFFERED": options, "PYTHONUTF8": "1"})
    assert (answer.returncode, answer.stdout) == (0, b"")
    assert answer.stderr.removeprefix(b"dist_calo: ") == said


def test_an_error_output_that_cannot_be_written_is_said_on_the_other():
    answer = speak("2>/dev/full")
    assert answer.returncode == 0
    assert b"\ndist_calo: standard error: No space left" in answer.stdout


@pytest.mark.parametrize(("of_run", "said"), [(True, b"standard output: Broken pipe"), (False, b"")])
def test_a_reader_that_ends_is_news_of_a_run_alone(of_run, said):
    answer = speak(
        "> >(exec true)",
        "import select; reader = select.poll(); reader.register(1, 0); reader.poll()",
        of_run=of_run,
    )
    assert answer.returncode == 0
    assert said in answer.stderr
    assert b"Traceback" not in answer.stderr
    assert b"ignored" not in answer.stderr
    assert bool(said) == (b"Broken" in answer.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_the_encoding_lacks_are_spelled_out(encoding):
    answer = speak("", env=os.environ | {"PYTHONIOENCODING": encoding})
    assert answer.returncode == 0
    spelled = "step 1: Müller, ∑ of 数 and \udcff\nbytes\n".encode(encoding, "backslashreplace")
    assert answer.stdout == spelled


def test_a_file_opened_later_does_not_get_the_number_of_a_closed_output(tmp_path):
    body = f"file = open({str(tmp_path / 'weights')!r}, 'w'); os.write(1, b'of a library'); file.close()"
    assert speak(">&- 2>&-", body).returncode == 0
    assert (tmp_path / "weights").read_text() == ""


def test_a_pipe_that_nobody_reads_holds_no_run_up_and_tells_what_is_missing():
    """200 kB into a pipe of 64 kB; the reader comes when the process has written all of it."""
    program = SPEAK.format(of_run=True, body="print('x' * 99 + '\\n', end='', flush=True)\n" * 2000)
    program += "print('written', file=sys.stderr, flush=True); sys.stdin.read(); print('again', flush=True)"
    speaker = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=-1)
    try:
        lines = iter(speaker.stderr.readline, b"")
        assert any(line == b"written\n" for line in lines)
        received = os.read(speaker.stdout.fileno(), 1 << 20)
        output = received + speaker.communicate(timeout=30)[0]
    finally:
        speaker.kill()
    kept = output.count(b"x" * 99)
    assert speaker.returncode == 0
    assert 0 < kept < 700
    assert output.endswith(b"again\n")
    (missing,) = [line for line in output.splitlines() if b"lines are missing here" in line]
    assert int(missing.split()[0].strip(b"[")) >= 2000 - kept


def test_a_pager_may_let_other_commands_wait():
    program = SPEAK.format(of_run=False, body="print('x' * 200_000, flush=True)")
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as speaker:
        with pytest.raises(subprocess.TimeoutExpired):
            speaker.wait(1.0)
        output, _ = speaker.communicate(timeout=30)
    assert output.count(b"x") == 200_000
    assert b"missing" not in output


@pytest.mark.parametrize("term", ["dumb", "xterm", ""])
def test_a_bar_outlives_its_terminal(term):
    """A terminal without a size, which is closed while the bar is drawn."""
    program = """
import sys
from dist_calo.launching import early_signals
early_signals.guard_output(of_run=True)
from dist_calo.training.progress import Progress
bar = Progress(100, 0, show=True)
bar.say("step 1 ∑")
sys.stdin.readline()
for step in range(100):
    bar.say(f"step {step}")
bar.close()
open(sys.argv[1], "w").write("done")
"""
    ours, theirs = pty.openpty()
    before, after = os.pipe()
    command = [sys.executable, "-c", program, f"/dev/fd/{after}"]
    speaker = subprocess.Popen(
        command,
        stdin=-1,
        stdout=theirs,
        stderr=theirs,
        pass_fds=[after],
        env=os.environ | {"TERM": term},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        start_new_session=True,
    )
    os.close(theirs)
    os.close(after)
    try:
        seen = b""
        while b"step 1" not in seen:
            seen += os.read(ours, 4096)
        os.close(ours)
        speaker.communicate(b"\n", timeout=60)
        assert os.read(before, 10) == b"done"
    finally:
        speaker.kill()
        os.close(before)
    assert speaker.returncode == 0
