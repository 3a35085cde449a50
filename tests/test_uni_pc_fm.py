import pytest
import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.k_diffusion.uni_pc_fm import sample_unipc, unipc_steps
from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu, flux_sigmas
from tests.golden import golden_meta, load_golden

CASES = golden_meta()["sampler"]


def analytic(x, sigma):
    s = sigma.view(-1, *[1] * (x.ndim - 1))
    return torch.tanh(0.7 * x) * (1 - 0.3 * s) + 0.1 * torch.roll(x, 1, -1)


def case(name):
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in load_golden("sampler").items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_golden_trajectories(name):
    golden = case(name)
    seen = []
    result = sample_unipc(analytic, golden["noise"], golden["sigmas"], callback=seen.append, disable=True)
    states = torch.stack([entry["x"] for entry in seen])
    torch.testing.assert_close(states, golden["x_after_step"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result, golden["result"], rtol=1e-5, atol=1e-5)
    assert [entry["i"] for entry in seen] == list(range(CASES[name]["steps"]))
    assert seen[-1]["denoised"] is result


@pytest.mark.parametrize("name", [name for name in CASES if f"{name}.result_bh2" in load_golden("sampler")])
def test_variant_bh2(name):
    golden = case(name)
    result = sample_unipc(analytic, golden["noise"], golden["sigmas"], disable=True, variant="bh2")
    torch.testing.assert_close(result, golden["result_bh2"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_schedule(name):
    entry = CASES[name]
    mu = flux_mu(torch.Size((1, 16, 1, 4, entry["seq_length"])))
    assert mu == pytest.approx(entry["mu"], rel=1e-12)
    torch.testing.assert_close(flux_sigmas(entry["steps"], mu), case(name)["sigmas"], rtol=1e-6, atol=1e-7)


def test_one_model_call_a_step_and_none_at_sigma_zero():
    calls = []

    def model(x, sigma, **extra):
        calls.append((sigma.tolist(), extra))
        return analytic(x, sigma)

    sample_unipc(model, torch.randn(2, 4), flux_sigmas(5, 1.0), extra_args={"a": 1}, disable=True)
    assert len(calls) == 5
    assert all(len(sigma) == 2 and sigma[0] > 0 and extra == {"a": 1} for sigma, extra in calls)


def test_closing_after_a_step_calls_the_model_no_more():
    calls = []
    steps = unipc_steps(lambda x, s: calls.append(s) or x, torch.randn(1, 4), flux_sigmas(5, 1.0))
    next(steps)
    next(steps)
    steps.close()
    assert len(calls) == 2


def test_progress_bar_goes_to_stderr_only_when_wanted(capsys):
    for disable in (True, False):
        sample_unipc(analytic, torch.randn(1, 4), flux_sigmas(2, 1.0), disable=disable)
        assert bool(capsys.readouterr().err) is not disable


def test_unknown_variant():
    with pytest.raises(SettingsError, match="bh3"):
        sample_unipc(analytic, torch.randn(1, 4), flux_sigmas(2, 1.0), variant="bh3")
