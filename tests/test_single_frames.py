"""Single frames: their plan, the numbers of the model called by hand, files, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import Finished, SectionSampled, StepDone
from diffusers_helper.core.frame import frame_plan
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.encoders.hunyuan import encode_prompt_conds, vae_encode
from diffusers_helper.encoders.vision import hf_clip_vision_encode
from diffusers_helper.generation.pictures import pixels_of
from diffusers_helper.generation.start import PictureMaker, generate_frame
from diffusers_helper.loading.components import Components
from diffusers_helper.media.frames import crop_or_pad_yield_mask
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo, cover
from diffusers_helper.media.recipe import read_recipe
from diffusers_helper.model_files import LocalFolder
from tests.tiny import TINY_FOLDER, tiny_text, tiny_vae, tiny_vision

SMALL = {"prompt": "a red square", "steps": 1, "seed": 5, "resolution": 128, "frame": True}
SIDE = 128
AT_HALF, AT_QUARTER = (11, 12), tuple(range(13, 29))


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


def picture(seed, size=(SIDE, SIDE)):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Photo(Image.fromarray(pixels).resize(size), f"{seed}.png", ())


def make(components, output, pictures=(), **changes):
    request = GenerationRequest.from_fields(SMALL | changes)
    inputs = JobInputs.of(request, {name: picture(seed) for seed, name in enumerate(pictures)})
    return list(generate_frame(inputs, PictureMaker(components, lambda: None), output))


def latents_of(events):
    return next(event.latents for event in events if isinstance(event, SectionSampled))


@pytest.mark.parametrize(
    ("given", "time", "indices"),
    [
        ({}, (9,), {1: (0, 10), 2: AT_HALF, 4: AT_QUARTER}),
        ({"time": 1, "second": True}, (1,), {1: (0, 10), 2: AT_HALF, 4: AT_QUARTER}),
        ({"time": 40, "slots": ()}, (40,), {1: (0,), 2: (), 4: ()}),
        ({"slots": ("2x",), "second": True}, (9,), {1: (0, 10), 2: AT_HALF, 4: ()}),
        ({"slots": ("post", "4x")}, (9,), {1: (0, 10), 2: (), 4: AT_QUARTER}),
    ],
)
def test_the_plan_is_one_section_of_one_latent(given, time, indices):
    plan = frame_plan(**given)
    [section] = plan.sections
    assert (plan.latent_window_size, plan.section_frames, plan.total_frames) == (1, 1, 1)
    assert section.variant == "original"
    assert section.latent_indices == time
    assert {factor: section.indices(factor) for factor in (1, 2, 4)} == indices
    sources = [piece.source for piece in section.context if piece.factor == 1]
    assert sources == ["line", *(["end"] if given.get("second") else ["line"] if 10 in indices[1] else [])]


def by_hand(prompt, seen, first, second, time, slots):
    """The latent that the model gives, called once with the tensors that single frames are trained with."""
    components = Components(LocalFolder(TINY_FOLDER), "cpu")
    transformer = components.transformer("original")
    text = tiny_text(TINY_FOLDER)
    llama, pooled = encode_prompt_conds(
        prompt, text.text_encoder, text.text_encoder_2, text.tokenizer, text.tokenizer_2
    )
    states, mask = crop_or_pad_yield_mask(llama, 512)
    noise = torch.randn(1, 16, 1, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(5))

    def empty(count):
        return torch.zeros(1, 16, count, SIDE // 8, SIDE // 8)

    post = [second if second is not None else empty(1)] if second is not None or "post" in slots else []
    clean = {
        "clean_latents": torch.cat([first, *post], dim=2),
        "clean_latent_indices": torch.tensor([[0, 10][: 1 + len(post)]]),
    }
    if "2x" in slots:
        clean |= {"clean_latents_2x": empty(2), "clean_latent_2x_indices": torch.tensor([AT_HALF])}
    if "4x" in slots:
        clean |= {"clean_latents_4x": empty(16), "clean_latent_4x_indices": torch.tensor([AT_QUARTER])}
    with torch.inference_mode():
        flow = transformer(
            noise,
            torch.tensor([1000.0]),
            states,
            mask,
            pooled,
            torch.tensor([10_000.0]),
            latent_indices=torch.tensor([[time]]),
            image_embeddings=hf_clip_vision_encode(seen, *tiny_vision(TINY_FOLDER)).last_hidden_state,
            return_dict=False,
            **clean,
        )[0]
    return noise - flow  # the noise level falls from 1 to 0 in one step


@pytest.mark.parametrize(
    ("names", "changes"),
    [
        ((), {}),
        ((START,), {"frame_slots": "2x"}),
        ((START, END), {"frame_time": 1}),
        ((START, END), {"frame_time": 12, "frame_slots": "nothing"}),
    ],
)
def test_the_numbers_are_those_of_the_model_called_by_hand(components, tmp_path, names, changes):
    request = GenerationRequest.from_fields(SMALL | changes)
    found = latents_of(make(components, tmp_path / "a", names, **changes))
    given = {name: cover(np.asarray(picture(seed).image), SIDE, SIDE) for seed, name in enumerate(names)}
    latents = {
        name: vae_encode(pixels_of(pixels), tiny_vae(TINY_FOLDER), torch.Generator().manual_seed(5))
        for name, pixels in given.items()
    }
    expected = by_hand(
        "a red square",
        given.get(START, np.full((SIDE, SIDE, 3), 128, np.uint8)),
        latents.get(START, torch.zeros(1, 16, 1, SIDE // 8, SIDE // 8)),
        latents.get(END),
        request.frame_time,
        request.frame_slots,
    )
    assert found.shape == (1, 16, 1, SIDE // 8, SIDE // 8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.std().item())


def test_a_picture_carries_its_recipe_and_comes_again(components, tmp_path):
    *events, finished = make(components, tmp_path / "a", steps=2, negative_prompt="x", cfg_scale=2.0)
    assert finished == Finished(tmp_path / "a.png", 1)
    assert [(e.section, e.sections, e.step) for e in events if isinstance(e, StepDone)] == [(0, 1, 1), (0, 1, 2)]
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.json"}
    recipe = read_recipe(tmp_path / "a.png")
    assert recipe.names == ()
    assert GenerationRequest(**recipe.settings).frame
    make(components, tmp_path / "b", **(recipe.settings | {"keep": ()}))
    assert not (tmp_path / "b.json").exists()
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as again:
        assert first.size == (SIDE, SIDE)
        assert (np.asarray(first) == np.asarray(again)).all()


def test_control_pictures_are_named_and_the_seed_is_the_pictures_own(components, tmp_path):
    one = latents_of(make(components, tmp_path / "a", (START, END), seed=1, frame_seed=7))
    other = latents_of(make(components, tmp_path / "b", (START, END), seed=7))
    assert (one == other).all()
    assert read_recipe(tmp_path / "a.png").names == (START, END)


def test_an_end_strength_counts_for_the_second_picture(components, tmp_path):
    found = [latents_of(make(components, tmp_path / "a", (START, END), end_strength=s)) for s in (0, 1)]
    assert not (found[0] == found[1]).all()


def test_its_metadata_can_be_left_out(components, tmp_path):
    inputs = JobInputs.of(GenerationRequest.from_fields(SMALL), {})
    list(generate_frame(inputs, PictureMaker(components, lambda: None, metadata=False), tmp_path / "a"))
    with pytest.raises(SettingsError):
        read_recipe(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("fields", "pictures", "said"),
    [
        ({"key_seconds": [1.2]}, (START,), "key pictures"),
        ({}, (END,), "second control picture"),
    ],
)
def test_what_means_nothing_is_refused(fields, pictures, said):
    with pytest.raises(SettingsError, match=said):
        direct(GenerationRequest.from_fields(SMALL | fields), pictures)
