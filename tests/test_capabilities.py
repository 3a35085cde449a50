"""What a card's generation decides: its half precision, the kernels of its attention, and what is said before work."""

import pytest
import torch
import torch.nn.functional as F

from diffusers_helper.app.device import pick_device, unused_card_note
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.models import sdpa
from diffusers_helper.models.dtypes import half_precision

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
CARDS = {
    "RTX 2060": (7, 5),
    "A100": (8, 0),
    "RTX 3090": (8, 6),
    "RTX 4090": (8, 9),
    "H100": (9, 0),
    "RTX 5090": (12, 0),
}


@pytest.mark.parametrize("card", CARDS)
def test_only_cards_before_ampere_compute_in_float16(card):
    expected = torch.float16 if card == "RTX 2060" else torch.bfloat16
    assert half_precision(CUDA, lambda _: CARDS[card]) == expected


def test_other_devices_have_bfloat16_and_a_choice_counts():
    assert half_precision(torch.device("mps")) == torch.bfloat16
    assert ComputeOptions().dtype_on(CUDA, transformer=True) == torch.bfloat16
    assert ComputeOptions().dtype_on(CPU, transformer=True) == torch.float32
    assert ComputeOptions(dtype=torch.float16).dtype_on(CUDA, transformer=True) == torch.float16


def test_where_no_kernel_takes_the_inputs_no_matrix_of_scores_is_ever_whole(monkeypatch):
    seen, own = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: seen.append(q.shape[2]) or own(q, k, v))
    q, k, v = (torch.randn(2, length, 3, 16) for length in (40, 50, 50))
    out = sdpa.by_rows(*(x.transpose(1, 2) for x in (q, k, v)), score_bytes=4 * 2 * 3 * 50 * 7).transpose(1, 2)
    assert seen == [7, 7, 7, 7, 7, 5]
    torch.testing.assert_close(sdpa.attention_on("cuda")(q, k, v), out, atol=1e-6, rtol=1e-5)  # no card's kernel fits
    torch.testing.assert_close(out, sdpa.sdpa(q, k, v), atol=1e-6, rtol=1e-5)


@pytest.fixture
def card(monkeypatch):
    """A card of Pascal's generation, under a PyTorch without code for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])


def test_a_card_without_machine_code_is_refused_before_any_work(card, monkeypatch):
    with pytest.raises(SettingsError, match=r"no kernel image for the GTX 1080 \(sm_61\), only for sm_75, sm_80\."):
        pick_device("auto", lambda: CUDA)
    assert pick_device("cpu", lambda: CUDA) == CPU
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_61"])
    assert pick_device("auto", lambda: CUDA) == CUDA


@pytest.mark.parametrize(
    ("driver", "build", "says"),
    [
        ("570.86", "13.0", "driver 570.86 is too old for this PyTorch (CUDA 13.0 needs 580)"),
        ("590.1", None, "built without CUDA"),
        ("590.1", "13.0", "finds no card"),
        (None, None, ""),
    ],
)
def test_a_card_that_is_not_used_is_told_at_the_start(monkeypatch, driver, build, says):
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert says in str(unused_card_note(CPU, "auto", lambda: driver) or "")
    assert bool(unused_card_note(CPU, "auto", lambda: driver)) is bool(says)
    assert unused_card_note(CPU, "cpu") is None
    assert unused_card_note(CPU, "auto", lambda: driver, gpus=(0, 1)) is None, "their processes use them"
    assert unused_card_note(CUDA, "auto") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert unused_card_note(CPU, "auto", lambda: driver) is None
