"""All that differs between the two published models, as data; no code branches on a variant's name."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message


@dataclass(frozen=True)
class Variant:
    """One published way of sampling a long video.

    Attributes:
        name: the name in requests, plans and on the command line.
        checkpoint: the repository of the transformer's weights.
        planner: the name of its planner in `planning.PLANNERS`.
        title: what the model is called.
        choice: what the page calls it, by what it does.
        about: a sentence for whoever chooses.
        note: what a user should know while it runs; empty if nothing.
    """

    name: str
    checkpoint: str
    planner: str
    title: str
    choice: str
    about: str
    note: str


ORIGINAL = Variant(
    name="original",
    checkpoint="lllyasviel/FramePackI2V_HY",
    planner="original",
    title="FramePack",
    choice=Message("Steadier"),
    about=Message("The ending is made first and the video grows back to the photo, so long videos stay true to it."),
    note=Message(
        "The ending is generated first and the video grows towards its start, "
        "so the photo's own moment appears last. Early sections may barely move."
    ),
)
F1 = Variant(
    name="f1",
    checkpoint="lllyasviel/FramePack_F1_I2V_HY_20250503",
    planner="f1",
    title="FramePack F1",
    choice=Message("More motion"),
    about=Message("The video grows forward from the photo: more happens, and long videos drift further from it."),
    note="",
)
VARIANTS = {variant.name: variant for variant in (ORIGINAL, F1)}


def variant_named(name: str) -> Variant:
    """Return the variant called `name`; raises SettingsError for any other name."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise SettingsError(
            Message("There is no variant {name!r}; choose one of {names}.", name=name, names=", ".join(VARIANTS))
        ) from None
