"""The sequence over several processes: the numbers of one."""

import pytest
import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.models.exchange import Collective
from diffusers_helper.models.spread import Projections
from diffusers_helper.models.ulysses import Ulysses, shares
from tests.several import run_together
from tests.spread_models import CACHES, CASES, EIGHT_BIT, halved, outputs, spread_outputs

pytestmark = pytest.mark.timeout(1200)  # processes that import everything


@pytest.fixture(scope="module")
def alone():
    return outputs()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two and of three processes got; starting them takes longest."""
    return {size: run_together(spread_outputs, size, tmp_path_factory.mktemp(f"of{size}")) for size in (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", [*CASES, *(f"{case}, MLPs in pieces" for case in CASES), "guidance", *CACHES])
def test_several_processes_give_the_numbers_of_one(alone, together, size, case):
    for found, _ in together[size]:
        torch.testing.assert_close(found[case], alone[case], atol=1e-5, rtol=0)
        assert torch.equal(found[case], together[size][0][0][case]), "in every process the same bits"


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", EIGHT_BIT)
def test_8_bit_mathematics_is_off_by_no_more_than_in_one_process(alone, together, size, case):
    """Codes may fall otherwise where a sum was rounded otherwise, and attention has its scales from other tokens."""
    exact = alone["texts of two lengths"]
    error = float((alone[case] - exact).norm())
    for found, _ in together[size]:
        assert 0 < float((found[case] - exact).norm()) < 1.5 * error
        assert torch.equal(found[case], together[size][0][0][case]), "in every process the same bits"


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_so_many_processes_give_the_same_bits_every_time(together, size):
    for found, again in together[size]:
        assert torch.equal(found["guidance"], again)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_each_half_computes_one_branch_of_guidance(alone, tmp_path, size):
    for rank, (found, passes) in enumerate(run_together(halved, size, tmp_path)):
        for one, name in zip(found, ("guidance", *CACHES), strict=True):
            torch.testing.assert_close(one, alone[name], atol=0 if size == 2 else 1e-5, rtol=0)
        branch = "positive" if rank < size // 2 else "negative"
        assert all(set(each) == {branch} for each in passes)


@pytest.mark.parametrize(("length", "processes"), [(18269, 2), (18269, 3), (849, 8), (5, 4), (2, 3)])
def test_parts_are_as_equal_as_can_be(length, processes):
    parts = shares(length, processes)
    assert sum(parts) == length
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)


def test_heads_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda _group: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda _group: 5)
    spread = Ulysses(None, Collective(None))
    spread.parts(torch.zeros(1, 10, 8), torch.zeros(1, 5, 8), torch.zeros(1, 10, 4))
    q = torch.zeros(1, 3, 24, 4)
    with pytest.raises(SettingsError, match="24 attention heads cannot be shared by 5 GPUs"):
        spread.attend(None, None, Projections(q, None, None), None)
