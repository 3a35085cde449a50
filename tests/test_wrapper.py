import pytest
import torch
from torch import nn

from diffusers_helper.k_diffusion.wrapper import fm_wrapper, guide


class Recorder(nn.Module):
    """A transformer whose velocity is its `value` argument; remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, hidden_states, timestep, value, return_dict=True):
        assert return_dict is False
        self.calls.append((hidden_states, timestep))
        return (torch.full_like(hidden_states[:, :4], value),)


X = torch.linspace(-2, 2, 2 * 4 * 1 * 2 * 2).view(2, 4, 1, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_and_timestep_are_rounded_at_the_border(dtype):
    transformer, sigma = Recorder(), torch.tensor([0.123, 0.987])
    x0 = fm_wrapper(transformer)(X, sigma, dtype=dtype, positive={"value": 0.5})
    (hidden, timestep), rounded = transformer.calls[0], X.to(dtype)
    assert hidden.dtype == timestep.dtype == dtype
    assert torch.equal(hidden, rounded)
    assert torch.equal(timestep, (sigma * 1000).to(dtype))
    assert x0.dtype == torch.float32
    assert torch.equal(x0, rounded.float() - sigma.view(2, 1, 1, 1, 1) * 0.5)


def test_concat_latent_joins_the_channels():
    transformer = Recorder()
    fm_wrapper(transformer, t_scale=10.0)(
        X, torch.ones(2), dtype=torch.float32, positive={"value": 0.0}, concat_latent=torch.ones(2, 3, 1, 2, 2)
    )
    hidden, timestep = transformer.calls[0]
    assert hidden.shape[1] == 7
    assert timestep.tolist() == [10.0, 10.0]


@pytest.mark.parametrize(("scale", "passes"), [(1.0, 1), (2.0, 2)])
def test_the_negative_pass_runs_only_with_guidance(scale, passes):
    transformer, sigma = Recorder(), torch.ones(2)
    x0 = fm_wrapper(transformer)(
        X, sigma, dtype=torch.float32, positive={"value": 3.0}, negative={"value": 1.0}, cfg_scale=scale
    )
    assert len(transformer.calls) == passes
    torch.testing.assert_close(x0, X - (1.0 + scale * 2.0))


def test_guidance_without_a_negative_prompt_is_an_error():
    with pytest.raises(ValueError, match="negative"):
        fm_wrapper(Recorder())(X, torch.ones(2), dtype=torch.float32, positive={"value": 1.0}, cfg_scale=2.0)


def test_full_rescale_restores_each_samples_spread():
    generator = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(2, 4, 3, 5, 5, generator=generator) * scale for scale in (1.0, 2.0))
    plain = guide(positive, negative, 3.0, 0.0)
    full = guide(positive, negative, 3.0, 1.0)
    axes = (1, 2, 3, 4)
    torch.testing.assert_close(full.std(axes), positive.std(axes))
    assert not torch.allclose(plain.std(axes), positive.std(axes))
    torch.testing.assert_close(guide(positive, negative, 3.0, 0.25), 0.25 * full + 0.75 * plain)
    torch.testing.assert_close(guide(positive, negative, 1.0, 0.0), positive)
