"""A given video's frames become latents in one causal pass."""

import copy

import pytest
import torch

from diffusers_helper.encoders import clips
from diffusers_helper.encoders.clips import vae_encode_clip
from diffusers_helper.encoders.hunyuan import vae_encode
from tests.models import golden_vae
from tests.tiny import SHIPPED, tiny_vae


def moving(frames, height=64, width=80):
    """A soft pattern that moves by two pixels a frame."""
    x = torch.arange(width)[None, None, :] - 2 * torch.arange(frames)[:, None, None]
    y = torch.arange(height)[None, :, None]
    waves = [torch.sin(x / 7) + torch.cos(y / 9), torch.sin((x + y) / 11), torch.cos(x / 5)]
    return torch.stack([(wave.expand(frames, height, width) / 2 * 100 + 128) for wave in waves]).clamp(0, 255).byte()


class NoNoise:
    """The posterior's mean instead of a sample."""

    @pytest.fixture(autouse=True)
    def _without_noise(self, monkeypatch):
        monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.zeros(*shape))


def as_floats(frames):
    return frames[None].float() / 127.5 - 1


def difference(found, expected):
    return ((found - expected).abs().max() / expected.std()).item()


class TestMeans(NoNoise):
    @pytest.mark.parametrize("latents", [1, 2, 9, 27])
    def test_4k_plus_1_frames_are_k_plus_1_latents(self, latents):
        found = vae_encode_clip(moving(4 * latents - 3), golden_vae())
        assert found.shape == (1, 16, latents, 8, 10)
        assert found.dtype == torch.float32
        assert found.isfinite().all()

    def test_one_frame_is_a_picture(self):
        frames = moving(1)
        assert torch.equal(vae_encode_clip(frames, golden_vae()), vae_encode(as_floats(frames), golden_vae()))

    @pytest.mark.slow
    def test_the_pass_is_diffusers_whole_encoder(self):
        frames, vae = moving(29), golden_vae()
        expected = vae.quant_conv(vae.encoder(as_floats(frames)))[:, :16].detach() * vae.config["scaling_factor"]
        assert difference(vae_encode_clip(frames, vae), expected) < 1e-5

    def test_pieces_would_be_something_else(self):
        """What others do, 16 frames by themselves, begins anew in each: there the one pass differs most."""
        frames, vae = moving(33), golden_vae()
        whole = vae_encode_clip(frames, vae)
        second = vae_encode_clip(frames[:, 16:], vae)
        inside = [difference(second[:, :, n : n + 1], whole[:, :, 4 + n : 5 + n]) for n in range(5)]
        assert inside[0] == max(inside)
        assert inside[0] > 0.05

    @pytest.mark.slow
    def test_the_first_latent_is_near_the_first_picture_s_and_not_the_same(self):
        """The group norms see all frames, those to come too; less than a seam between pieces it is."""
        frames, vae = moving(33), tiny_vae(SHIPPED)
        whole = vae_encode_clip(frames, vae)
        picture, piece = vae_encode_clip(frames[:, :1], vae), vae_encode_clip(frames[:, 16:], vae)
        first, seam = (whole[:, :, :1] - picture).std(), (whole[:, :, 4:5] - piece[:, :, :1]).std()
        assert 0 < first < 0.35 * whole.std() < seam

    @pytest.mark.slow
    def test_in_tiles_where_the_autoencoder_has_to_save_memory(self, monkeypatch):
        frames, vae = moving(17, 96, 128), copy.deepcopy(golden_vae())
        whole = vae_encode_clip(frames, vae)
        monkeypatch.setattr(clips, "MOST_BYTES_ON_CPU", 0)
        vae.tile_sample_min_height = vae.tile_sample_min_width = 64
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = 48
        sizes = []
        vae.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
        tiled = vae_encode_clip(frames, vae)
        assert {size[0] for size in sizes} == {17}, "time is never cut"
        assert max(size[1] * size[2] for size in sizes) == 64 * 64
        assert tiled.shape == whole.shape
        assert not vae.use_tiling
        assert vae.use_framewise_encoding


def test_the_generator_fixes_the_latents():
    def found(seed):
        return vae_encode_clip(moving(9), golden_vae(), torch.Generator("cpu").manual_seed(seed))

    assert torch.equal(found(1), found(1))
    assert not torch.equal(found(1), found(2))


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_other_counts_of_frames(frames):
    with pytest.raises(ValueError, match="4k\\+1"):
        vae_encode_clip(moving(frames), golden_vae())
