import copy

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

from diffusers_helper.encoders.hunyuan import (
    PROMPT_PREFIX,
    PROMPT_SUFFIX,
    encode_prompt_conds,
    truncation_notes,
    vae_decode,
    vae_decode_fake,
    vae_encode,
)
from diffusers_helper.models.vae_decoder import AMPLE, SHORT, VaeDecoder
from tests.golden import golden_meta, load_golden
from tests.models import golden_vae
from tests.tiny import tiny_text

LONG = " ".join(f"the {colour} lion dances in the rain," for colour in ("red", "white", "black", "blue") * 12)


def llama_words(count):
    """A prompt of exactly `count` Llama tokens."""
    return "The" + " girl" * (count - 1)


def test_the_tiny_tokenizer_has_one_token_for_a_common_word():
    assert len(tiny_text().tokenizer(llama_words(7)).input_ids) == 1 + 7


def test_the_template_is_what_the_model_was_trained_with():
    assert f"{PROMPT_PREFIX}{{}}{PROMPT_SUFFIX}" == DEFAULT_PROMPT_TEMPLATE["template"]


def test_the_tiny_tokenizer_reads_the_prefix_in_as_many_tokens_as_the_real_one():
    assert len(tiny_text().tokenizer(PROMPT_PREFIX).input_ids) == DEFAULT_PROMPT_TEMPLATE["crop_start"] == 95


@pytest.mark.parametrize(
    "prompt",
    [
        "The girl dances gracefully, with clear movements.",
        "",
        " ",
        "\n\n",
        "{} {0} %s {prompt} }{",
        "🙂 שלום עולם 日本語 e\u0301",
        "nul \0 in the middle",
        LONG,
        llama_words(255),
        llama_words(256),
        llama_words(257),
    ],
)
def test_a_prompt_is_encoded_as_diffusers_does(prompt):
    text = tiny_text()
    pipeline = HunyuanVideoPipeline(
        text_encoder=text.text_encoder,
        text_encoder_2=text.text_encoder_2,
        tokenizer=text.tokenizer,
        tokenizer_2=text.tokenizer_2,
        transformer=None,
        vae=None,
        scheduler=None,
    )
    with torch.no_grad():
        embeds, expected_pooled, mask = pipeline.encode_prompt(prompt)
    expected = embeds[:, : int(mask.sum())]

    llama, pooled = encode_prompt_conds(prompt, *text)

    assert llama.shape == expected.shape
    assert 1 <= llama.shape[1] <= 256
    torch.testing.assert_close(llama, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, expected_pooled, rtol=1e-4, atol=1e-4)
    assert not llama.requires_grad
    assert not pooled.requires_grad


def test_a_prompt_is_encoded_the_same_whatever_side_its_tokenizer_pads_and_cuts():
    text = tiny_text()
    expected, _ = encode_prompt_conds(LONG, *text)
    sides = text.tokenizer.padding_side, text.tokenizer.truncation_side
    text.tokenizer.padding_side = text.tokenizer.truncation_side = "left"
    try:
        actual, _ = encode_prompt_conds(LONG, *text)
    finally:
        text.tokenizer.padding_side, text.tokenizer.truncation_side = sides
    assert torch.equal(actual, expected)


class WeightsElsewhere:
    """An encoder whose parameters are kept away from where it computes."""

    device = torch.device("meta")

    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, input_ids, **options):
        assert input_ids.device.type == "cpu"
        return self.encoder(input_ids, **options)


def test_encoders_may_compute_elsewhere_than_where_their_weights_are_kept():
    text = tiny_text()
    away = text._replace(
        text_encoder=WeightsElsewhere(text.text_encoder), text_encoder_2=WeightsElsewhere(text.text_encoder_2)
    )
    expected = encode_prompt_conds("The lion.", *text)
    actual = encode_prompt_conds("The lion.", *away, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("prompt", "cut_by"),
    [
        ("", []),
        ("The girl dances.", []),
        (llama_words(75), []),
        (llama_words(76), ["CLIP"]),
        (llama_words(256), ["CLIP"]),
        (llama_words(257), ["Llama", "CLIP"]),
        ("girl " * 75 + " \n ", []),
        ("{0} %s 🙂 " * 40, ["Llama", "CLIP"]),
    ],
)
def test_a_note_says_which_encoder_cuts_the_prompt_off(prompt, cut_by):
    notes = truncation_notes(prompt, tiny_text().tokenizer, tiny_text().tokenizer_2)
    assert [note.split()[1] for note in notes] == cut_by


def test_a_note_quotes_the_last_words_that_were_read():
    text = tiny_text()
    notes = truncation_notes(LONG, text.tokenizer, text.tokenizer_2)
    llama_read, clip_read = (note.partition("“")[2].partition("”")[0] for note in notes)

    llama_ids = text.tokenizer(LONG, add_special_tokens=False).input_ids[:256]
    clip_ids = text.tokenizer_2(LONG, max_length=77, truncation=True).input_ids
    clip_text = text.tokenizer_2.decode(clip_ids, skip_special_tokens=True).replace(" ,", ",").strip()
    assert text.tokenizer.decode(llama_ids).endswith(llama_read)
    assert clip_text.endswith(clip_read)
    assert all(len(words.split()) == 6 for words in (llama_read, clip_read))


@pytest.fixture
def vae():
    return copy.deepcopy(golden_vae())  # a test may let it work in tiles


@pytest.mark.parametrize(
    ("name", "latent_frames", "pixel_frames"),
    [
        ("i2v_1", 4, 13),  # the whole video is one decode
        ("f1_1", 3, 9),
        ("i2v_3", 7, 16),  # the last decode, up to where it is faded into the one before
    ],
)
def test_latents_are_decoded_as_the_original_does(vae, name, latent_frames, pixel_frames):
    golden = load_golden(f"video_{name}")
    pixels = vae_decode(golden["latents"][:, :, :latent_frames], vae)
    assert pixels.shape[2] == 4 * latent_frames - 3
    expected = golden["pixels"].float()[:, :, :pixel_frames]
    torch.testing.assert_close(pixels[:, :, :pixel_frames], expected, atol=2e-3, rtol=1e-3)


def test_in_image_mode_every_latent_frame_is_a_picture_by_itself(vae):
    latents = torch.randn(2, 16, 3, 4, 6)
    pictures = vae_decode(latents, vae, image_mode=True)
    assert pictures.shape == (2, 3, 3, 32, 48)
    assert torch.equal(pictures[:, :, 1:2], vae_decode(latents[:, :, 1:2], vae))
    assert not torch.allclose(pictures[:, :, 2], vae_decode(latents, vae)[:, :, 8])


@pytest.mark.parametrize("tiled", [False, True])
def test_frames_that_do_not_fit_are_decoded_again_in_smaller_pieces(vae, monkeypatch, caplog, tiled):
    latents = torch.randn(1, 16, 2, 4, 6)
    expected = vae_decode(latents, vae)
    decoders, decode = [], VaeDecoder.__call__

    def too_much(decoder, raw):
        decoders.append(decoder.piece)
        if len(decoders) == 1:
            raise torch.OutOfMemoryError("full")
        return decode(decoder, raw)

    monkeypatch.setattr(VaeDecoder, "__call__", too_much)
    vae.use_tiling = tiled
    if tiled:
        with pytest.raises(torch.OutOfMemoryError):
            vae_decode(latents, vae)
        return
    torch.testing.assert_close(vae_decode(latents, vae), expected)
    assert decoders == [AMPLE, SHORT]
    assert "decoded again" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.bfloat16])
def test_decoding_takes_any_dtype_and_gives_the_autoencoder_s(given, dtype):
    vae = AutoencoderKLHunyuanVideo(**golden_meta()["vae_config"]).to(dtype)
    pixels = vae_decode(torch.zeros(1, 16, 1, 2, 2, dtype=given), vae)
    assert pixels.dtype == dtype
    assert not pixels.requires_grad


@pytest.fixture
def image():
    return torch.rand(1, 3, 5, 32, 48) * 2 - 1


def test_a_picture_is_encoded_whole_where_decoding_must_save_memory(vae, image):
    whole, expected = vae.encode(image).latent_dist.mean, vae_encode(image, vae, torch.Generator().manual_seed(7))
    sides, strides = (16, 16), (8, 8)
    vae.enable_tiling(*sides, vae.tile_sample_min_num_frames, *strides)
    assert not torch.allclose(vae.encode(image).latent_dist.mean, whole, atol=1e-3)  # what tiles would do
    assert torch.equal(vae_encode(image, vae, torch.Generator().manual_seed(7)), expected)
    assert vae.use_tiling


def test_encoding_samples_the_posterior_and_scales_it(vae, image):
    latents = vae_encode(image, vae, torch.Generator().manual_seed(7))
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
    noise = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(latents, (posterior.mean + posterior.std * noise) * 0.476986)
    assert latents.shape == (1, 16, 2, 4, 6)
    assert not latents.requires_grad


def test_the_generator_alone_fixes_the_latents(vae, image):
    def encode(seed):
        return vae_encode(image, vae, torch.Generator().manual_seed(seed))

    first = encode(1)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert torch.equal(encode(1), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(encode(2), first)


def test_the_noise_and_the_latents_are_float32_whatever_the_autoencoder_computes_in(image):
    vae = AutoencoderKLHunyuanVideo(**golden_meta()["vae_config"]).to(torch.bfloat16)
    latents = vae_encode(image, vae, torch.Generator().manual_seed(7))
    with torch.no_grad():
        posterior = vae.encode(image.bfloat16()).latent_dist
    noise = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(latents, (posterior.mean.float() + posterior.std.float() * noise) * 0.476986)


def test_without_a_generator_the_global_one_is_used(vae, image):
    torch.manual_seed(3)
    first = vae_encode(image, vae)
    torch.manual_seed(3)
    assert torch.equal(vae_encode(image, vae), first)
    assert not torch.equal(vae_encode(image, vae), first)


@pytest.mark.parametrize(
    ("channel", "value", "colour"),
    [
        (0, 0.0, (0.0259, 0.0, 0.0)),  # the bias, negative parts cut
        (10, 1.0, (0.1425, 0.1435, 0.0201)),
        (10, 2.0, (0.2591, 0.3062, 0.1163)),
        (12, -2.0, (0.4889, 0.3648, 0.1949)),
        (15, 100.0, (1.0, 0.0, 0.0)),
    ],
)
def test_a_preview_is_a_linear_map_of_the_channels_cut_to_0_1(channel, value, colour):
    latents = torch.zeros(2, 16, 3, 4, 5, dtype=torch.bfloat16)
    latents[1, channel, 2, 1, 4] = value
    preview = vae_decode_fake(latents)
    assert preview.shape == (2, 3, 3, 4, 5)
    assert preview.dtype == torch.float32
    torch.testing.assert_close(preview[1, :, 2, 1, 4], torch.tensor(colour), atol=1e-6, rtol=0)
    torch.testing.assert_close(preview[0, :, 0, 0, 0], torch.tensor((0.0259, 0.0, 0.0)), atol=1e-6, rtol=0)
