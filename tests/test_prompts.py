import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.prompts import LATEST, by_section, spans, timed_prompts, written
from diffusers_helper.core.request import GenerationRequest


@pytest.mark.parametrize(
    ("prompt", "timed"),
    [
        ("a cat", [(0, "a cat")]),
        ("", [(0, "")]),
        ("[0s-2.4s: pan left] [2.4s-4.8s: pan right]", [(0, "pan left"), (2.4, "pan right")]),
        ("[0s: pan left][2.4s-: pan right]", [(0, "pan left"), (2.4, "pan right")]),
        ("[0S - 1 s : a]\n[1,5s:b]", [(0, "a"), (1.5, "b")]),
        ("A man. [0s-2s: waves] [2s-4s: bows]", [(0, "A man. waves"), (2, "bows")]),
        ("A man waits. [2s-4s: He bows]", [(0, "A man waits."), (2, "He bows")]),
        ("[2s-4s: He bows]", [(0, "He bows"), (2, "He bows")]),
        ("[cat] and [0: dog]", [(0, "[cat] and [0: dog]")]),
        ("[0s-1s: a] [3s-4s: b]", [(0, "a"), (3, "b")]),
    ],
)
def test_times_in_a_prompt(prompt, timed):
    assert list(timed_prompts(prompt)) == timed


@pytest.mark.parametrize("prompt", ["[2s-1s: a]", "[0s-2s: a] [0s-2s: b]", "[2s: a] [1s: b]", "[1s-1s: a]"])
def test_times_that_cannot_be(prompt):
    with pytest.raises(SettingsError, match="prompt"):
        timed_prompts(prompt)


@pytest.mark.parametrize(
    ("times", "sections", "table"),
    [
        ([0], 3, [0, 0, 0]),
        ([0, 2.4, 4.8], 6, [0, 0, 1, 1, 2, 2]),
        ([0, 2.39], 4, [0, 1, 1, 1]),
        ([0, 1.3, 1.4], 3, [0, 2, 2]),
        ([0, 60], 2, [0, 0]),
    ],
)
def test_a_change_takes_effect_in_the_section_that_holds_it(times, sections, table):
    assert by_section([(time, "") for time in times], sections) == table


def test_the_table_as_seconds():
    assert list(spans([0, 0, 1, 2, 2])) == [(0, 2.4, 0), (2.4, 3.6, 1), (3.6, 6.0, 2)]


@pytest.mark.parametrize("late", ["9" * 400, "1" + "0" * 308, "1000000"])
def test_a_time_that_is_no_number_any_more_is_after_every_end(late):
    request = GenerationRequest(prompt=f"[0s: a] [{late}s: b]", seconds=3, loras=f"film=[0s-{late}s: 0.5]")
    assert request.timed_prompts == ((0.0, "a"), (LATEST, "b"))
    assert by_section(request.timed_prompts, request.sections) == [0] * request.sections
    assert request.loras[0].weights(2) == [0.5, 0.5]
    assert written(request.timed_prompts) == "[0s: a] [1000000s: b]"


@pytest.mark.parametrize("late", [1e308, 10**400, float("inf"), float("nan")])
def test_a_list_of_times_has_no_later_one(late):
    with pytest.raises(SettingsError, match="seconds and texts"):
        GenerationRequest.from_field("prompt", [[0, "a"], [late, "b"]])
