"""What is told of a video before it is made."""

from PIL import Image

from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.notes import notes_on
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo


def test_what_two_pictures_share_is_told_once():
    first, last = (
        Photo(Image.new("RGB", (64, 64)), name, notes)
        for name, notes in (("a", ("Grey.", "Small.")), ("b", ("Grey.",)))
    )
    inputs = JobInputs(GenerationRequest(), {START: first, END: last})
    assert list(notes_on(inputs, 64 * 64, 64)) == ["Grey.", "Small."]
