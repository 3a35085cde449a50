import itertools
import weakref

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoUpsampleCausal3D
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.models import vae_decoder
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.vae_decoder import Activation, VaeDecoder, phase_weights, to_channels_last
from tests.golden import golden_meta
from tests.models import golden_vae


def decoder(short=False, piece=None, stored=None):
    made = VaeDecoder(golden_vae(), PLAIN, short_of_memory=short)
    made.piece = piece or made.piece
    made.stored = made.stored if stored is None else stored
    return made


@torch.no_grad()
def diffusers_decode(latents):
    return golden_vae().decode(latents).sample


def relative_error(result, expected):
    assert result.shape == expected.shape
    return (result - expected).norm() / expected.norm()


SIZES = [(1, 16, 1, 4, 6), (1, 16, 2, 3, 5), (1, 16, 4, 4, 4), (2, 16, 5, 4, 3), (1, 16, 7, 3, 4), (1, 16, 9, 2, 3)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"short": True}, {"piece": 1}, {"piece": 1, "stored": 0}, {"piece": 3000, "stored": 30000}],
    ids=str,
)
def test_pixels_are_diffusers_s_however_little_memory_there_is(shape, settings):
    latents = torch.randn(shape)
    assert relative_error(decoder(**settings)(latents), diffusers_decode(latents)) < 1e-5


def test_without_windows_all_frames_are_decoded_as_one():
    vae, latents = golden_vae(), torch.randn(1, 16, 6, 3, 4)
    vae.use_framewise_decoding = False
    try:
        assert relative_error(decoder()(latents), diffusers_decode(latents)) < 1e-5
        whole = decoder()(latents)
    finally:
        vae.use_framewise_decoding = True
    assert relative_error(decoder()(latents), whole) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_the_exact_numbers_as_diffusers_is(dtype):
    latents = torch.randn(1, 16, 5, 4, 4).to(dtype)
    exact = diffusers_decode(latents.float())
    vae = AutoencoderKLHunyuanVideo(**golden_meta()["vae_config"]).to(dtype)
    vae.load_state_dict(golden_vae().state_dict())
    with torch.no_grad():
        theirs = relative_error(vae.decode(latents).sample.float(), exact)
    assert relative_error(VaeDecoder(vae, PLAIN)(latents).float(), exact) < 1.2 * theirs


class LiveBytes(TorchDispatchMode):
    """The most bytes that results of operations held at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _hold(self, storage):
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._release, key)

    def _release(self, key):
        self.now -= self.live.pop(key)


def peak_bytes(decode, latents):
    with LiveBytes() as memory:
        decode(latents)
    return memory.peak


@pytest.mark.slow
def test_memory_stays_near_one_activation_where_it_is_short():
    latents = torch.randn(1, 16, 5, 8, 8)
    largest = 4 * 8 * 17 * 64 * 64  # bytes of an activation in full resolution: 8 channels, 17 frames
    short = peak_bytes(decoder(piece=1, stored=0), latents)
    ample = peak_bytes(decoder(), latents)
    assert short < 2 * largest
    assert short < ample


@pytest.mark.parametrize("factor", [(2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("piece", [1, 1000, 10**6])
@torch.no_grad()
def test_upsampling_on_small_frames_equals_convolving_the_big_ones(factor, frames, piece):
    upsampler = HunyuanVideoUpsampleCausal3D(3, 2, upsample_factor=factor)
    small = torch.randn(1, 3, frames, 4, 5)
    big = decoder(piece=piece)._upsampled(Activation(list(small.split(2, dim=2))), upsampler)
    expected = upsampler(small)
    torch.testing.assert_close(torch.cat(list(big), dim=2), expected, atol=1e-5, rtol=0)
    assert big.shape == expected.shape


@pytest.mark.parametrize(("doubled", "taps"), [(True, 8), (False, 12)])
def test_taps_that_see_the_same_pixel_are_one(doubled, taps):
    phases = phase_weights(torch.randn(2, 3, 3, 3, 3), doubled)
    assert [phase.shape[:2].numel() for phase in phases] == [4 * 2 * 3] * (2 if doubled else 1)
    assert {phase[0, 0].numel() for phase in phases} == {taps}


@pytest.mark.parametrize("cuts", [(6,), (1, 5), (2, 1, 3)])
def test_a_norm_over_pieces_is_the_norm_over_all_frames(cuts):
    x, norm, bias = torch.randn(2, 8, 6, 3, 4) + 1, torch.nn.GroupNorm(4, 8), torch.randn(8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    scale, shift = decoder()._affine(norm, Activation(list(x.split(cuts, dim=2))), bias)
    scale, shift = (v[..., None, None, None] for v in (scale, shift))
    torch.testing.assert_close(x * scale + shift, norm(x + bias[:, None, None, None]), atol=1e-5, rtol=0)


def test_a_frame_attends_to_itself_and_the_frames_before_without_a_mask(monkeypatch):
    calls = []

    def recorder(q, k, v):
        calls.append((q.shape[1], k.shape[1]))
        return vae_decoder.F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    monkeypatch.setattr(vae_decoder, "sdpa", recorder)
    decoder()(torch.randn(1, 16, 4, 3, 5))
    assert calls == [(15, 15 * n) for n in (1, 2, 3, 4)]


def test_an_activation_lets_go_of_what_was_drained():
    tensors = [torch.zeros(1, 1, 1, 1, 1) for _ in range(3)]
    watched = [weakref.ref(tensor) for tensor in tensors]
    activation = Activation(tensors)
    del tensors
    pieces = activation.drain()
    for i in range(3):
        piece = next(pieces)
        del piece
        assert [ref() is None for ref in watched] == [True] * (i + 1) + [False] * (2 - i)


def test_a_decode_can_be_stopped_between_layers():
    vae, checks = golden_vae(), itertools.count()

    class StopError(Exception):
        pass

    def check():
        if next(checks) == 10:  # ten resnets and some layers more have one each
            raise StopError

    with interruptible(vae, check), pytest.raises(StopError):
        decoder()(torch.randn(1, 16, 4, 2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{"piece": 10**9, "stored": 1e9}, {"piece": 1, "stored": 0}], ids=str)
def test_pixels_are_diffusers_s_on_the_gpu(settings):
    latents = torch.randn(1, 16, 9, 12, 10)
    exact = diffusers_decode(latents)
    vae = AutoencoderKLHunyuanVideo(**golden_meta()["vae_config"])
    vae.load_state_dict(golden_vae().state_dict())
    vae.to("cuda", torch.float16)
    made = VaeDecoder(vae, resolve_kernels("cuda", torch.float16))
    assert made.kernels is not PLAIN
    made.piece, made.stored = settings["piece"], settings["stored"]
    assert relative_error(made(latents.to("cuda", torch.float16)).float().cpu(), exact) < 0.01


@pytest.mark.gpu
def test_weights_change_their_layout_on_a_stream_of_their_own_unharmed():
    layer = torch.nn.Conv3d(64, 64, 3, device="cuda")
    before, pointer = layer.weight.detach().cpu(), layer.weight.data_ptr()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(500_000_000)  # what keeps the stream busy while the other one goes on
        to_channels_last(layer)
    taken = [torch.full_like(layer.weight, torch.nan) for _ in range(4)]
    assert pointer not in [weight.data_ptr() for weight in taken]
    torch.cuda.synchronize()
    assert torch.equal(layer.weight.cpu(), before)
