import pytest
import torch

from diffusers_helper.models.rope import pad_to_multiple, pool_table, rope_table, rotate, tokens_of
from tests.golden import golden_meta, load_golden

AXES, THETA = (4, 6, 6), 256.0


def table(indices, height=2, width=3):
    return rope_table(torch.tensor(indices), height, width, AXES, THETA)


def test_table_is_the_golden_one():
    axes = golden_meta()["transformer_config"]["rope_axes_dim"]
    result = rope_table(torch.arange(3, 8).unsqueeze(0), 3, 5, axes, THETA)
    torch.testing.assert_close(result, load_golden("forward")["rope.freqs"], atol=1e-5, rtol=0)


def test_table_of_a_batch_holds_each_samples_own_indices():
    both = table([[0, 1], [7, 9]])
    torch.testing.assert_close(both, torch.cat([table([[0, 1]]), table([[7, 9]])]), atol=0, rtol=0)
    assert both.dtype == torch.float32


@pytest.mark.parametrize("factor", [2, 4])
def test_coarse_tables_average_the_fine_one_with_its_last_values_repeated(factor):
    fine = table([[3, 5, 6]], height=5, width=3)
    coarse = pool_table(fine, factor)
    t, h, w = (-(-n // factor) for n in (3, 5, 3))
    assert coarse.shape == (1, 32, t, h, w)
    for at in [(0, 0, 0), (t - 1, h - 1, w - 1), (0, h - 1, 0)]:
        cell = [
            fine[0, :, min(at[0] * factor + i, 2), min(at[1] * factor + j, 4), min(at[2] * factor + k, 2)]
            for i in range(factor)
            for j in range(factor)
            for k in range(factor)
        ]
        torch.testing.assert_close(coarse[0, :, *at], torch.stack(cell).mean(0), atol=1e-6, rtol=0)


def test_padding_repeats_the_end_and_leaves_fitting_sizes_alone():
    x = torch.arange(6.0).view(1, 1, 1, 2, 3)
    padded = pad_to_multiple(x, (2, 2, 2))
    assert padded[0, 0].tolist() == [[[0, 1, 2, 2], [3, 4, 5, 5]]] * 2
    assert pad_to_multiple(padded, (1, 2, 4)) is padded


def test_rotation_turns_each_pair_by_position_times_frequency():
    x = torch.randn(1, 2, 3, 16)
    rope = tokens_of(table([[5]], height=1, width=2))
    pairs = torch.view_as_complex(x.view(1, 2, 3, 8, 2))
    for token in range(2):
        positions = [5.0] * 2 + [0.0] * 3 + [float(token)] * 3
        frequencies = [THETA ** (-2 * k / dim) for dim in AXES for k in range(dim // 2)]
        angles = torch.tensor([p * f for p, f in zip(positions, frequencies, strict=True)])
        expected = torch.view_as_real(pairs[:, token] * torch.polar(torch.ones(8), angles)).flatten(-2)
        torch.testing.assert_close(rotate(x, rope)[:, token], expected)


def test_rotation_leaves_text_alone_and_works_in_float32():
    x = torch.randn(2, 5, 2, 16).bfloat16()
    rope = tokens_of(table([[0, 4]], height=1, width=2)).expand(2, -1, -1)
    result = rotate(x, rope)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result[:, 4:], x[:, 4:])
    assert torch.equal(result[:, :4], rotate(x[:, :4].float(), rope).bfloat16())
