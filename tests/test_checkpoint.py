import pytest
import torch

from diffusers_helper.framepack.checkpoint import Checkpoint
from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.framepack.errors import OutputError
from diffusers_helper.framepack.events import SectionSampled


def section(seed):
    generator = torch.Generator().manual_seed(seed)
    return SectionSampled(seed, torch.randn(1, 16, 9, 2, 3, generator=generator), generator.get_state())


def conditions():
    return Conditions(torch.zeros(1, 2, 3), torch.ones(1, 2) > 0, torch.zeros(1, 4)), torch.zeros(1, 16, 1, 2, 3)


def filled(folder, count=3):
    checkpoint = Checkpoint(folder)
    checkpoint.begin({}, *conditions())
    for seed in range(count):
        checkpoint.append(section(seed))
    return folder / f"section_{count - 1:03d}.safetensors"


def test_sections_come_back_bit_for_bit_in_a_new_process(tmp_path):
    filled(tmp_path / "job")
    found = Checkpoint(tmp_path / "job")
    assert len(found) == 3
    for seed, again in enumerate(found):
        assert again.index == seed
        assert torch.equal(again.latents, section(seed).latents)
        assert torch.equal(again.generator_state, section(seed).generator_state)
    assert torch.equal(found[-1].latents, section(2).latents)
    assert [len(item) for item in (found[1:], found[5:])] == [2, 0]
    with pytest.raises(IndexError):
        found[3]
    generator = torch.Generator()
    generator.set_state(found[1].generator_state)
    assert torch.equal(torch.randn(5, generator=generator), torch.randn(5, generator=continued(1)))


def continued(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.randn(1, 16, 9, 2, 3, generator=generator)
    return generator


def flip(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: flip(content, len(content) - 1),
        lambda content: flip(content, len(content) // 2),
        lambda content: flip(content, 0),
        lambda content: content.replace(b"digest", b"tigest"),
        lambda content: content.replace(b'[1,16,9,2,3]', b'[1,16,9,3,2]'),
    ],
    ids=["empty", "short", "long", "end", "middle", "length", "no-digest", "shape"],
)  # fmt: skip
def test_a_damaged_section_falls_back_to_the_one_before(tmp_path, damage):
    last = filled(tmp_path)
    content = last.read_bytes()
    last.write_bytes(damage(content))
    assert last.read_bytes() != content
    found = Checkpoint(tmp_path)
    assert len(found) == 2
    found.append(section(2))
    assert last.read_bytes() == content


def test_what_comes_after_a_damaged_section_does_not_count(tmp_path):
    filled(tmp_path)
    (tmp_path / "section_000.safetensors").unlink()
    found = Checkpoint(tmp_path)
    assert len(found) == 0
    found.append(section(0))
    assert len(Checkpoint(tmp_path)) == 1


def test_forgetting_leaves_nothing(tmp_path):
    filled(tmp_path)
    found = Checkpoint(tmp_path)
    found.forget()
    assert (len(found), found.environment, list(tmp_path.iterdir())) == (0, {}, [])


def test_a_section_that_changes_meanwhile_is_not_read(tmp_path):
    last = filled(tmp_path)
    found = Checkpoint(tmp_path)
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(OutputError, match=r"section_002.*changed"):
        found[2]


@pytest.mark.parametrize("guided", [False, True])
def test_conditions_come_back_in_their_types(tmp_path, guided):
    texts = (torch.randn(1, 6, 4).half(), torch.arange(6)[None] < 4, torch.randn(1, 5).bfloat16())
    given = Conditions(*texts, *(texts if guided else ()), image_embeddings=torch.randn(1, 3, 4))
    checkpoint, start = Checkpoint(tmp_path), torch.randn(1, 16, 1, 2, 3)
    assert checkpoint.conditions() is None
    checkpoint.begin({"torch": "2.13.0"}, given, start)
    found, latent = Checkpoint(tmp_path).conditions()
    assert torch.equal(latent, start)
    for name, tensor in vars(given).items():
        if tensor is None:
            assert getattr(found, name) is None
        else:
            assert getattr(found, name).dtype == tensor.dtype
            assert torch.equal(getattr(found, name), tensor)
    path = tmp_path / "conditions.safetensors"
    path.write_bytes(flip(path.read_bytes(), path.stat().st_size - 2))
    assert Checkpoint(tmp_path).conditions() is None


@pytest.mark.parametrize("content", ["", "[1]", "{", None])
def test_an_environment_that_cannot_be_read_is_empty(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "job")
    assert checkpoint.environment == {}
    checkpoint.begin({"torch": "2.13.0"}, *conditions())
    assert Checkpoint(tmp_path / "job").environment == {"torch": "2.13.0"}
    if content is not None:
        (tmp_path / "job/environment.json").write_text(content)
        assert checkpoint.environment == {}


def test_where_nothing_can_be_written_a_section_does_not_count(tmp_path):
    filled(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    (tmp_path / "section_003.safetensors.part").mkdir()
    with pytest.raises(OutputError):
        checkpoint.append(section(3))
    assert len(checkpoint) == 3


def test_nowhere_keeps_nothing():
    checkpoint = Checkpoint(None)
    checkpoint.begin({}, *conditions())
    checkpoint.append(section(0))
    assert (len(checkpoint), checkpoint.conditions(), checkpoint.environment) == (0, None, {})
