"""SLURM's facts, from programs that stand in for its own."""

import pytest

from dist_calo.launching import slurm


def test_the_first_of_two_facts_of_a_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "JobId=7 JobName=a JobState=RUNNING Requeue=1 Command=/a.sh --x.Requeue=0 JobState=no"
    monkeypatch.setattr(slurm, "output", lambda *_: shown)
    facts = slurm.job_facts("7")
    assert (facts["JobState"], facts["Requeue"]) == ("RUNNING", "1")


def test_a_program_that_fails_or_is_missing_says_nothing() -> None:
    assert slurm.output("false") == slurm.output("/no/such/program") == ""
