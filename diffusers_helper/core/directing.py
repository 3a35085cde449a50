"""From a request and the pictures that came with it to a plan, and to what each of its sections follows.

A *cue* is a prompt, a negative prompt and a picture to look at, each maybe on the way from one to another, and the
weights of LoRA files. Sections that follow the same cue share its conditions, and what the transformer makes of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from diffusers_helper.core.blank import without_blank
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.forgetting import forgetting
from diffusers_helper.core.frame import frame_plan
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, FPS, LATENT_WINDOW, START, VideoPlan
from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.prompts import Timed, blended, by_section
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.score import Score, Stretch
from diffusers_helper.core.scores import AFTER, BEFORE, MOST, score_of, sides

SECTION_SECONDS = 4 * LATENT_WINDOW / FPS


@dataclass(frozen=True)
class Blend:
    """(1 - fraction) of one text or picture and `fraction` of another; of the first alone at 0."""

    before: str
    after: str
    fraction: Fraction = Fraction(0)

    @property
    def names(self) -> list[str]:
        """What takes part in it, one or two."""
        return [self.after] if self.fraction == 1 else [self.before, self.after] if self.fraction else [self.before]


@dataclass(frozen=True)
class Cue:
    """What a section follows.

    Attributes:
        prompt: what should happen.
        negative: what should not.
        picture: names of the pictures whose image embedding it gets.
        loras: the weight of each LoRA file.
    """

    prompt: Blend
    negative: Blend
    picture: Blend
    loras: tuple[float, ...] = ()


@dataclass(frozen=True)
class Direction:
    """A whole video: its plan, whose sections name cues by number."""

    plan: VideoPlan
    cues: dict[int, Cue]


def key_name(number: int) -> str:
    """Return the name of a key picture among the pictures, from 1."""
    return f"key_{number}"


def key_section(seconds: float) -> int:
    """Return the section that begins with a key picture of that time."""
    return round(seconds / SECTION_SECONDS)


def direct(
    request: GenerationRequest, pictures: Collection[str] = (START,), videos: Mapping[str, object] | None = None
) -> Direction:
    """Plan the video of `request` with pictures and given videos of these names.

    How long given videos are decides what sections read of them, and neither how many there are nor what they make: it
    is taken that there is enough of each. Raises SettingsError for what cannot be.
    """
    if request.frame:
        return _direct_frame(request, pictures)
    if videos:
        return direct_videos(request, {name: MOST[name] for name in sides(videos)})
    keys = [key_name(number) for number in range(1, len(request.key_seconds) + 1)]
    if missing := [name for name in keys if name not in pictures]:
        raise SettingsError(Message("There is a time for a key picture, but no picture: {names}.", names=missing))
    borders = [0, *_key_sections(request), request.sections]
    stretches = [Stretch(b - a, name) for name, (a, b) in zip((START, *keys), pairwise(borders), strict=True)]
    plan = plan_score(Score(request.variant, tuple(stretches), end=END in pictures, landing=request.landing))
    if request.start == "colour":
        plan = without_blank(plan)
    return _directed(_remembering(request, plan), _cues(request, borders, (START, *keys), has_end=END in pictures))


def _direct_frame(request: GenerationRequest, pictures: Collection[str]) -> Direction:
    """Plan a single frame, which looks at its control picture, START; without one that is a grey picture."""
    if request.key_seconds:
        raise SettingsError(Message("A single picture has no key pictures: leave out their times, or make a video."))
    if END in pictures and START not in pictures:
        raise SettingsError(Message("A second control picture needs a first one: give a photo, too."))
    plan = frame_plan(request.frame_time, second=END in pictures, slots=request.frame_slots)
    prompt, negative = (timed[0][1] for timed in (request.timed_prompts, request.timed_negative_prompts))
    return _directed(plan, [Cue(Blend(prompt, prompt), Blend(negative, negative), Blend(START, START))])


def direct_videos(request: GenerationRequest, latents: Mapping[str, int]) -> Direction:
    """Plan what is made for given videos, of which there are so many latents: all sections look at one of their frames.

    That is the newest one before them or, where nothing is, the first one after them, by the name of its video.
    """
    look = BEFORE if BEFORE in latents else AFTER
    plan = plan_score(score_of(request, latents))
    return _directed(_remembering(request, plan), _cues(request, [0, request.sections], (look,), has_end=False))


def _remembering(request: GenerationRequest, plan: VideoPlan) -> VideoPlan:
    """Return `plan` with as much memory at the changes of the prompt as is wanted."""
    if not request.forget_at_changes:
        return plan
    timed = request.timed_prompts
    return forgetting(plan, [timed[number][1] for number in by_section(timed, request.sections)])


def _directed(plan: VideoPlan, cues: Sequence[Cue]) -> Direction:
    """Return `plan` with the cue of each section, given in the order of time, by its number."""
    numbers = {cue: number for number, cue in enumerate(dict.fromkeys(cues))}
    sections = tuple(replace(section, prompt=numbers[cues[section.output_index]]) for section in plan.sections)
    return Direction(replace(plan, sections=sections), {number: cue for cue, number in numbers.items()})


def _key_sections(request: GenerationRequest) -> list[int]:
    """The section that begins with each key picture."""
    numbers = [key_section(seconds) for seconds in request.key_seconds]
    if any(b <= a for a, b in pairwise([0, *numbers, request.sections])):
        raise SettingsError(
            Message(
                "Key pictures need at least {seconds} s between each other, after the start and before the end.",
                seconds=SECTION_SECONDS,
            )
        )
    return numbers


def _cues(request: GenerationRequest, borders: Sequence[int], starts: Sequence[str], *, has_end: bool) -> list[Cue]:
    """What each section of the finished video follows."""
    count = request.sections
    prompts = _texts(request.timed_prompts, count, request.blend)
    negatives = _texts(request.timed_negative_prompts, count, request.blend)
    looks = [_look(request, section, borders, starts, has_end=has_end) for section in range(count)]
    loras = zip(*(lora.weights(count) for lora in request.loras), strict=True) if request.loras else [()] * count
    return [Cue(*parts) for parts in zip(prompts, negatives, looks, loras, strict=True)]


def _texts(timed: Sequence[Timed], sections: int, blend: int) -> list[Blend]:
    table = blended(by_section(timed, sections), blend)
    return [Blend(timed[mix.before][1], timed[mix.after][1], mix.fraction) for mix in table]


def _look(
    request: GenerationRequest, section: int, borders: Sequence[int], starts: Sequence[str], *, has_end: bool
) -> Blend:
    """The picture that a section sees as a whole: the one its stretch begins with, or a blend towards the next one."""
    stretch = max(i for i, border in enumerate(borders[:-1]) if border <= section)
    here = starts[stretch]
    following = starts[stretch + 1] if stretch + 1 < len(starts) else END if has_end else here
    if request.end_embedding == "start" or following == here:
        return Blend(here, here)
    length = borders[stretch + 1] - borders[stretch]
    fraction = Fraction(section - borders[stretch], length - 1) if length > 1 else Fraction(1, 2)
    return Blend(here, following, fraction)
