"""scripts/check_device: it finds what is wrong, says how, and goes on."""

import pytest
import torch

from benchmarks.check_device import Case, Device, Sizes, check, judge, main, tell_steps


@pytest.fixture(scope="module")
def on():
    return Device(torch.device("cpu"))


def broken():
    raise RuntimeError("Error: total bytes of NDArray > 2**32")


CASES = {
    "right": (lambda: torch.ones(3), True, "right  it: error 0 (allowed 0.01)"),
    "wrong": (lambda: torch.full((3,), 1.1), False, "WRONG  it: error 0.1 (allowed 0.01)"),
    "nan": (lambda: torch.tensor([1.0, 1.0, float("nan")]), False, "WRONG  it: error nan"),
    "error": (broken, False, "WRONG  it: RuntimeError: Error: total bytes of NDArray > 2**32"),
    "another shape": (lambda: torch.ones(2), False, "WRONG  it: RuntimeError"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_judged_and_never_ends_the_others(name, on, capsys):
    compute, right, says = CASES[name]
    assert check(Case("it", compute, lambda: torch.ones(3).double(), 0.01), on)[0] is right
    assert capsys.readouterr().out.startswith(says)


def test_steps_are_told_only_by_rates_that_were_measured(capsys):
    tell_steps(0.0, 1e12)
    assert capsys.readouterr().out == ""
    tell_steps(20e12, 20e12)
    assert "a step at 640x608: about 24.7 s, a second of video 515 s" in capsys.readouterr().out


@pytest.mark.slow
def test_all_is_right_here(capsys):
    assert main(["--tiny", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nright ") == 13
    assert said.endswith("Everything is right.\n")


def test_what_is_wrong_is_counted_and_the_rest_is_checked(on, capsys):
    wanted = lambda: torch.ones(3).double()  # noqa: E731
    found = [Case(name, CASES[name][0], wanted, 0.01) for name in ("wrong", "right", "error")]
    assert judge(found, on, Sizes()) == 1
    said = capsys.readouterr().out
    assert (said.count("\nright "), said.count("WRONG  ")) == (1, 2)
    assert said.endswith("2 WRONG\n")
