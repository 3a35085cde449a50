"""What a user asks for: one frozen model that validates for the page, the API and the command line alike.

It knows neither files nor models; the photo travels beside it. `GenerationRequest.from_fields` turns pydantic's
findings into one sentence per field, and `to_json`/`from_json` keep a request as a recipe.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from diffusers_helper.core.blank import BLANK_FRAMES
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.fields import (
    MAX_SECONDS,
    MAX_SEED,
    MIN_SIDE,
    Colour,
    Kept,
    Number,
    OrNothing,
    Prompt,
    Resolution,
    Seconds,
    Shape,
    Share,
    Side,
    Start,
    Time,
    Whole,
    Words,
    none_if_blank,
)
from diffusers_helper.core.frame import FRAME_TIME, MAX_FRAME_TIME, SLOTS, Slot
from diffusers_helper.core.loras import MAX_LORAS, Lora, lora_list
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS, sections_for, total_frames
from diffusers_helper.core.prompts import MAX_BLEND, Timed, timed_prompts
from diffusers_helper.core.quality import Quality, StepCacheName
from diffusers_helper.core.validation import sentences_of

RANDOM_SEED = -1
BEST_CRF, WORST_CRF = 1, 51
GREY = "#808080"
MAX_KEYS = 20
SIDES = ("width", "height")
OF_VIDEOS = ("anchor", "replaced")
"""Settings that mean something for given videos alone."""
LANDING, MOST_LANDING = 2, 2


class GenerationRequest(BaseModel):
    """The settings of one video.

    Attributes:
        prompt: what should happen; may be empty, and may hold times, as `core.prompts` tells.
        negative_prompt: what should not, likewise; used only when `cfg_scale` is above 1.
        blend: over how many sections one text of a prompt with times passes into the next, 0 to 4.
        key_seconds: when each key picture is reached, growing; they are rounded to whole sections.
        end_strength: how much of an end picture counts, 0 to 1.
        end_embedding: whether sections look at the picture before them ("start") or more and more at the next ("mix").
        landing: how many sections before a key or end picture or a given video F1 leaves to the original's weights.
        forget_at_changes: the first section with another text of the prompt sees only what is next to it, and not what
            lies further off.
        anchor: which given frame of a video F1 keeps in sight, the "last" or the "first" one.
        replaced: the seconds of a given video in whose place the new ones come; from and to the same where they come
            between. `media.edits` sets it.
        variant: "original" or "f1".
        seconds: wished length; the real one is `total_seconds`.
        seed: -1 for a random one, which `with_seed` then draws and fixes.
        steps: sampling steps per section.
        guidance_scale: distilled guidance, an input of the model.
        cfg_scale: classifier-free guidance; 1 is off and twice as fast.
        cfg_rescale: how far guided predictions are scaled back to the plain one's spread, 0 to 1.
        quality: how much of the exact numbers is given up for time; see `core.quality`.
        step_cache: a way to skip model calls, in place of the one that `quality` chooses; None for that.
        teacache: the older switch for one of them, which counts where `step_cache` is None.
        preserved_memory_gb: GPU memory to leave free while sampling on a small card, GB.
        mp4_crf: H.264 compression, 0 to 100 as people's settings have it; `crf` is what is used.
        resolution: base size of the bucket table, None for the model folder's own.
        shape: of the video; "photo" for the start picture's.
        width, height: of the video in pixels, multiples of 16, in place of both; None for neither.
        fit: "crop" cuts off what the shape has no room for, "blur" shows all of a picture before a blurred copy.
        focus: the point of a picture, as parts of its width and height, that stays in sight when it is cropped.
        start: what a video without a photo begins with: a picture that the original's weights make of the prompt
            ("text"), one by a text-to-image model of the user's ("model"), or a blank one, whose frames are cut off
            ("colour"); with "photo" it needs a photo.
        start_colour: as #rrggbb.
        frame_seed: of a picture that is made as the start, or alone; None for the video's.
        frame: make a single picture instead of a video, of the prompt or of control pictures.
        frame_time: the picture's time index; the control picture's is 0.
        frame_slots: which empty latents the model sees beside control pictures.
        keep: what stays beside the finished video: the photo as the models saw it, the settings, the latents (and with
            them all that it takes to make the video longer).
        loras: LoRA files that change the transformer, and their weights; see `core.loras`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt = ""
    negative_prompt: Prompt = ""
    blend: Annotated[Whole, Field(ge=0, le=MAX_BLEND)] = 0
    key_seconds: Annotated[tuple[Seconds, ...], Words, Field(max_length=MAX_KEYS)] = ()
    end_strength: Share = 1.0
    end_embedding: Literal["start", "mix"] = "start"
    landing: Annotated[Whole, Field(ge=1, le=MOST_LANDING)] = LANDING
    forget_at_changes: bool = False
    anchor: Literal["last", "first"] = "last"
    replaced: tuple[Time, Time] | None = None
    variant: Literal["original", "f1"] = "original"
    seconds: Annotated[Number, Field(ge=1, le=MAX_SECONDS)] = 5.0
    seed: Annotated[Whole, Field(ge=-1, le=MAX_SEED)] = RANDOM_SEED
    steps: Annotated[Whole, Field(ge=1, le=100)] = 25
    guidance_scale: Annotated[Number, Field(ge=1, le=32)] = 10.0
    cfg_scale: Annotated[Number, Field(ge=1, le=32)] = 1.0
    cfg_rescale: Annotated[Number, Field(ge=0, le=1)] = 0.0
    quality: Quality = "exact"
    step_cache: Annotated[StepCacheName | None, OrNothing] = None
    teacache: bool = False
    preserved_memory_gb: Annotated[Number, Field(ge=0, le=128)] = 6.0
    mp4_crf: Annotated[Whole, Field(ge=0, le=100)] = 16
    resolution: Resolution | None = None
    shape: Shape = "photo"
    width: Annotated[Side | None, OrNothing] = None
    height: Annotated[Side | None, OrNothing] = None
    fit: Literal["crop", "blur"] = "crop"
    focus: Annotated[tuple[Share, Share], Words] = (0.5, 0.5)
    start: Start = "photo"
    start_colour: Colour = GREY
    frame_seed: Annotated[Annotated[Whole, Field(ge=0, le=MAX_SEED)] | None, OrNothing] = None
    frame: bool = False
    frame_time: Annotated[Whole, Field(ge=1, le=MAX_FRAME_TIME)] = FRAME_TIME
    frame_slots: Annotated[tuple[Slot, ...], Words] = SLOTS
    keep: Annotated[tuple[Kept, ...], Words] = ("photo", "recipe")
    loras: Annotated[tuple[Lora, ...], BeforeValidator(lora_list), Field(max_length=MAX_LORAS)] = ()

    @model_validator(mode="after")
    def _both_sides(self) -> GenerationRequest:
        if (self.width is None) != (self.height is None):
            raise SettingsError(Message("A width needs a height, and a height a width."))
        return self

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> GenerationRequest:
        """Validate `fields`; raises SettingsError whose text has one sentence for each field at fault."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise SettingsError(sentences_of(error)) from None

    @classmethod
    def from_field(cls, name: str, value: object) -> GenerationRequest:
        """Validate one field, whatever the others are to be; raises SettingsError with a sentence."""
        fields = {name: value}
        if name in SIDES and none_if_blank(value) is not None:
            fields = {**dict.fromkeys(SIDES, MIN_SIDE), **fields}  # none is alone
        return cls.from_fields(fields)

    @classmethod
    def from_json(cls, text: str) -> GenerationRequest:
        """Read what `to_json` wrote; raises SettingsError for anything else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SettingsError(sentences_of(error)) from None

    def to_json(self) -> str:
        """Return the request as JSON."""
        return self.model_dump_json(indent=2)

    def with_seed(self) -> GenerationRequest:
        """Return the request with its seed fixed: a random one in place of -1."""
        return self if self.seed >= 0 else self.model_copy(update={"seed": random.SystemRandom().randint(0, 2**32 - 1)})

    def identity(self, *, leads: bool = False) -> dict[str, Any]:
        """Return what a video's name is made from; a field that came later only where it is not as it was before.

        `leads`: the video leads to a picture, so that F1's landing, which was 1 at first, makes a difference.
        """
        fields = self.model_dump()
        usual = _USUAL | {"landing": 1 if leads and self.variant == "f1" else self.landing}
        return {name: value for name, value in fields.items() if name not in _CAME_LATER or value != usual[name]}

    @property
    def timed_prompts(self) -> tuple[Timed, ...]:
        """The prompt's texts, and from when on each counts."""
        return timed_prompts(self.prompt)

    @property
    def timed_negative_prompts(self) -> tuple[Timed, ...]:
        """The negative prompt's."""
        return timed_prompts(self.negative_prompt)

    @property
    def sections(self) -> int:
        """Number of sections sampled."""
        return 1 if self.frame else sections_for(self.seconds)

    @property
    def total_frames(self) -> int:
        """Pixel frames of the finished video: each key picture is one of them, and those of a blank start are cut."""
        if self.frame:
            return 1
        cut = BLANK_FRAMES if self.start == "colour" else 0
        return total_frames(self.sections) + len(self.key_seconds) - cut

    @property
    def picture_seed(self) -> int:
        """Seed of a picture that is made as the start, or alone."""
        return self.seed if self.frame_seed is None else self.frame_seed

    @property
    def total_seconds(self) -> float:
        """Real length of the finished video, seconds."""
        return self.total_frames / FPS

    @property
    def crf(self) -> int:
        """Compression in use: 0 would be a profile that browsers show black, and H.264 ends at 51."""
        return min(max(self.mp4_crf, BEST_CRF), WORST_CRF)


_CAME_LATER = frozenset(
    (
        "blend",
        "key_seconds",
        "end_strength",
        "end_embedding",
        "landing",
        "forget_at_changes",
        "anchor",
        "replaced",
        "shape",
        "width",
        "height",
        "fit",
        "focus",
        "loras",
        "start",
        "start_colour",
        "frame_seed",
        "frame",
        "frame_time",
        "frame_slots",
        "quality",
        "step_cache",
    )
)
_USUAL = GenerationRequest().model_dump()
