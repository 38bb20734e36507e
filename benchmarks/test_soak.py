"""Tests of the soak: it runs the whole script, and tells what grew from what did not."""

import sys

import pytest

from benchmarks import soak
from benchmarks.soak import Sample
from command_line import UserError


@pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc")
def test_a_short_soak(monkeypatch, capsys):
    monkeypatch.setattr(soak, "has_display", lambda: False)
    monkeypatch.setattr(soak, "CLIP", 10)
    monkeypatch.setattr(soak, "ALLOWED", (10.0, 99, 99))  # the first seconds are not steady
    assert soak.main(["0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("MB" in line and "threads" in line for line in lines) >= 10 and lines[-1].startswith("flat: memory by ")


@pytest.mark.parametrize(("end", "grew"), [((109, 9, 5), False), ((111, 9, 5), True), ((100, 10, 5), True)])
def test_what_grew(end, grew, capsys):
    samples = [Sample(0, 50, 5, 3), *[Sample(1, 100, 9, 5)] * 8, Sample(2, *end)]
    assert soak.has_grown(samples) is grew and capsys.readouterr().out.startswith("grew" if grew else "flat")


def test_a_soak_that_is_ended_at_once():
    with pytest.raises(UserError, match="measures 20 times; found that it was ended before the first"):
        soak.has_grown([])
