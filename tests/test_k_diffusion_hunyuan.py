import math

import pytest
import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import SectionDone
from diffusers_helper.core.planning import plan_video
from diffusers_helper.framepack.engine import sample_video
from diffusers_helper.pipelines.k_diffusion_hunyuan import draw_noise, flux_mu, flux_sigmas, sample_hunyuan
from tests.golden import load_golden
from tests.models import golden_conditions, golden_transformer

CONDITIONS = golden_conditions("i2v_2_cfg")
PROMPT = {
    "prompt_embeds": CONDITIONS.prompt_embeds,
    "prompt_embeds_mask": CONDITIONS.prompt_mask,
    "prompt_poolers": CONDITIONS.pooled,
}
NEGATIVE = {
    "negative_prompt_embeds": CONDITIONS.negative_embeds,
    "negative_prompt_embeds_mask": CONDITIONS.negative_mask,
    "negative_prompt_poolers": CONDITIONS.negative_pooled,
}
SIZE = {"width": 48, "height": 48, "frames": 5, "num_inference_steps": 3, "dtype": torch.float32}


def sample(seed=1, **changes):
    settings = SIZE | PROMPT | {"image_embeddings": CONDITIONS.image_embeddings} | changes
    return sample_hunyuan(golden_transformer(), generator=torch.Generator().manual_seed(seed), **settings)


def test_a_script_gets_what_the_engine_makes():
    start = load_golden("video_i2v_2_cfg")["start_latent"]
    events = sample_video(
        plan_video("original", 1, 3),
        transformer=golden_transformer(),
        vae=None,
        start_latent=start,
        conditions=CONDITIONS,
        seed=3,
        steps=4,
        cfg_scale=2.0,
        cfg_rescale=0.5,
        device="cpu",
        dtype=torch.float32,
        decode=False,
    )
    expected = next(event for event in events if isinstance(event, SectionDone)).latents
    zeros = torch.zeros(1, 16, 19, *start.shape[-2:])
    got = sample(
        seed=3,
        frames=9,
        num_inference_steps=4,
        real_guidance_scale=2.0,
        guidance_rescale=0.5,
        distilled_guidance_scale=10.0,
        **NEGATIVE,
        latent_indices=torch.arange(1, 4)[None],
        clean_latents=torch.cat([start, zeros[:, :, :1]], dim=2),
        clean_latent_indices=torch.tensor([[0, 4]]),
        clean_latents_2x=zeros[:, :, 1:3],
        clean_latent_2x_indices=torch.arange(5, 7)[None],
        clean_latents_4x=zeros[:, :, 3:],
        clean_latent_4x_indices=torch.arange(7, 23)[None],
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_callback_sees_every_step():
    seen = []
    result = sample(callback=seen.append)
    assert [entry["i"] for entry in seen] == [0, 1, 2]
    assert torch.equal(seen[0]["x"], draw_noise(1, 5, 48, 48, torch.Generator().manual_seed(1)))
    assert torch.equal(seen[-1]["denoised"], result)
    assert result.shape == (1, 16, 2, 6, 6)
    assert result.dtype == torch.float32


def test_one_prompt_serves_a_batch():
    both = sample(batch_size=2)
    assert both.shape[0] == 2
    assert not torch.equal(both[0], both[1])


def test_strength_zero_gives_the_initial_latents_back():
    initial = torch.randn(1, 16, 2, 6, 6)
    near = sample(initial_latent=initial, strength=1e-6)
    torch.testing.assert_close(near, initial, rtol=0, atol=1e-4)
    assert not torch.allclose(sample(initial_latent=initial, strength=0.5), initial, atol=1e-2)


def test_negative_kwargs_reach_the_negative_pass_alone():
    plain = sample(real_guidance_scale=2.0, **NEGATIVE)
    other = {"image_embeddings": CONDITIONS.image_embeddings * 0}
    assert not torch.equal(sample(real_guidance_scale=2.0, **NEGATIVE, negative_kwargs=other), plain)
    assert torch.equal(sample(negative_kwargs=other), sample())


@pytest.mark.parametrize(
    ("tokens", "mu"), [(256, 0.5), (4096, 1.15), (13680, math.log(7)), (9 * 80 * 76 // 4, math.log(7))]
)
def test_shift_of_the_schedule(tokens, mu):
    assert flux_mu(torch.Size((1, 16, 1, 2, tokens * 2))) == pytest.approx(mu)


def test_shift_can_be_given():
    sigmas = flux_sigmas(4, math.log(3.0))
    t = torch.linspace(1, 0, 5)
    torch.testing.assert_close(sigmas, 3 * t / (1 + 2 * t))
    assert not torch.equal(sample(shift=3.0), sample())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "euler"}, "euler"),
        ({"prompt_embeds": None}, "prompt_embeds"),
        ({"real_guidance_scale": 2.0}, "CFG"),
    ],
)
def test_what_cannot_be_sampled_is_said(change, words):
    with pytest.raises(SettingsError, match=words):
        sample(**change)
