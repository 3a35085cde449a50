import os
from dataclasses import replace

import pytest
import torch

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.events import SectionSampled
from diffusers_helper.core.plan import END, START
from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.loading.tensor_file import TensorFile


def section(seed):
    generator = torch.Generator().manual_seed(seed)
    return SectionSampled(seed, torch.randn(1, 16, 9, 2, 3, generator=generator), generator.get_state())


def conditions():
    known = Conditions(torch.zeros(1, 2, 3), torch.ones(1, 2) > 0, torch.zeros(1, 4))
    return {0: known}, {START: torch.zeros(1, 16, 1, 2, 3)}


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


def state():
    return torch.Generator().get_state()


LATENTS = torch.zeros(1, 16, 9, 2, 3)
NO_SECTIONS = {
    "another name": lambda: {"latent": LATENTS, "generator_state": state()},
    "one more": lambda: {"latents": LATENTS, "generator_state": state(), "index": torch.tensor(2)},
    "no state": lambda: {"latents": LATENTS},
    "nothing": dict,
    "conditions": lambda: {"prompt_embeds": torch.zeros(1, 2, 3), "start_latent": torch.zeros(1, 16, 1, 2, 3)},
    "four dimensions": lambda: {"latents": LATENTS[0], "generator_state": state()},
    "two at once": lambda: {"latents": LATENTS.repeat(2, 1, 1, 1, 1), "generator_state": state()},
    "another number of channels": lambda: {"latents": LATENTS[:, :4], "generator_state": state()},
    "another number of frames": lambda: {"latents": LATENTS[:, :, :8], "generator_state": state()},
    "another size": lambda: {"latents": torch.zeros(1, 16, 9, 3, 2), "generator_state": state()},
    "no pixels": lambda: {"latents": torch.zeros(1, 16, 9, 0, 3), "generator_state": state()},
    "half precision": lambda: {"latents": LATENTS.half(), "generator_state": state()},
    "whole numbers": lambda: {"latents": LATENTS.int(), "generator_state": state()},
    "NaN": lambda: {"latents": LATENTS / 0, "generator_state": state()},
    "a short state": lambda: {"latents": LATENTS, "generator_state": state()[:-1]},
    "a state of another kind": lambda: {"latents": LATENTS, "generator_state": state().float()},
    "a state that is none": lambda: {"latents": LATENTS, "generator_state": torch.full_like(state(), 255)},
}


@pytest.mark.parametrize("tensors", NO_SECTIONS.values(), ids=NO_SECTIONS.keys())
def test_what_is_no_section_ends_the_sequence_though_its_checksum_is_right(tmp_path, tensors):
    last = filled(tmp_path)
    content = last.read_bytes()
    TensorFile("digest").write(last, tensors())
    found = Checkpoint(tmp_path)
    assert len(found) == 2
    assert found[-1].latents.equal(section(1).latents)
    found.append(section(2))
    assert last.read_bytes() == content


NO_CONDITIONS = {
    "no start": lambda kept: kept.pop("start_latent"),
    "no prompt": lambda kept: kept.pop("pooled"),
    "one more": lambda kept: kept.update(style=torch.zeros(1)),
    "a section": lambda kept: (kept.clear(), kept.update(latents=LATENTS, generator_state=state())),
    "a flat prompt": lambda kept: kept.update(prompt_embeds=torch.zeros(6)),
    "an empty prompt": lambda kept: kept.update(prompt_embeds=torch.zeros(1, 0, 3)),
    "a prompt of whole numbers": lambda kept: kept.update(prompt_embeds=torch.zeros(1, 2, 3).int()),
    "a mask of numbers": lambda kept: kept.update(prompt_mask=torch.zeros(1, 2)),
    "a start without time": lambda kept: kept.update(start_latent=torch.zeros(1, 16, 2, 3)),
    "a start of two frames": lambda kept: kept.update(start_latent=torch.zeros(1, 16, 2, 2, 3)),
    "a start in half precision": lambda kept: kept.update(start_latent=torch.zeros(1, 16, 1, 2, 3).half()),
    "an end in half precision": lambda kept: kept.update({"given.end": torch.zeros(1, 16, 1, 2, 3).half()}),
    "an end of another size": lambda kept: kept.update({"given.end": torch.zeros(1, 16, 1, 4, 3)}),
    "half of another prompt": lambda kept: kept.update({"3.pooled": torch.zeros(1, 4)}),
    "another group": lambda kept: kept.update({"x.pooled": torch.zeros(1, 4)}),
    "a digit that is none": lambda kept: kept.update({"\u00b2.pooled": torch.zeros(1, 4)}),
    "a start of another size": lambda kept: kept.update(start_latent=torch.zeros(1, 16, 1, 4, 3)),
}


@pytest.mark.parametrize("change", NO_CONDITIONS.values(), ids=NO_CONDITIONS.keys())
def test_what_are_no_conditions_are_made_again_though_their_checksum_is_right(tmp_path, change):
    filled(tmp_path)
    path = tmp_path / "conditions.safetensors"
    kept, _ = TensorFile("digest").read(path)
    change(kept)
    TensorFile("digest").write(path, kept)
    found = Checkpoint(tmp_path)
    assert (found.conditions(), len(found)) == (None, 3)


def test_what_is_of_another_size_than_the_video_is_another_videos(tmp_path):
    filled(tmp_path)
    found = Checkpoint(tmp_path)
    found.expect(2, 3)
    assert (len(found), found.conditions() is None) == (3, False)
    found.expect(3, 2)
    assert (len(found), found.conditions()) == (0, None)
    assert len(Checkpoint(tmp_path)) == 3


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    last = filled(tmp_path)
    for path in (last, tmp_path / "conditions.safetensors", tmp_path / "environment.json"):
        path.unlink()
        os.mkfifo(path)
    found = Checkpoint(tmp_path)
    assert (len(found), found.conditions(), found.environment) == (2, None, {})


def test_what_comes_after_a_damaged_section_does_not_count(tmp_path):
    filled(tmp_path)
    (tmp_path / "section_000.safetensors").unlink()
    found = Checkpoint(tmp_path)
    assert len(found) == 0
    found.append(section(0))
    assert len(Checkpoint(tmp_path)) == 1


def test_sections_after_a_thousand_are_in_order_and_foreign_files_stay(tmp_path):
    filled(tmp_path, 1)
    for name in ("section_1000.safetensors", "section_001.safetensors", "section_000 (copy).safetensors"):
        (tmp_path / name).touch()
    checkpoint = Checkpoint(tmp_path)
    checkpoint.append(section(1))
    names = {path.name for path in tmp_path.glob("section_*")}
    assert names == {"section_000.safetensors", "section_001.safetensors", "section_000 (copy).safetensors"}


def test_forgetting_leaves_nothing(tmp_path):
    filled(tmp_path)
    found = Checkpoint(tmp_path)
    found.forget()
    assert (len(found), found.environment, list(tmp_path.iterdir())) == (0, {}, [])


def with_trail(seed, trails_from, *, like=None):
    latents = section(seed).latents
    trail = torch.stack([latents + 1, latents + 2]) if like is None else like
    return replace(section(seed), trail=trail, trails_from=trails_from)


def test_what_was_read_of_unfinished_sections_is_kept_as_long_as_somebody_needs_it(tmp_path):
    checkpoint = Checkpoint(tmp_path / "job")
    checkpoint.begin({}, *conditions())
    for seed, trails_from in ((0, 0), (1, 0), (2, 1)):
        checkpoint.append(with_trail(seed, trails_from))
    found = Checkpoint(tmp_path / "job").trails()
    assert list(found) == [1, 2]
    assert all(torch.equal(found[seed], with_trail(seed, 0).trail) for seed in found)
    checkpoint.append(replace(section(3), trails_from=4))
    assert not Checkpoint(tmp_path / "job").trails()
    assert not list((tmp_path / "job").glob("trail_*"))


def test_what_does_not_fit_its_section_is_not_read(tmp_path):
    checkpoint = Checkpoint(tmp_path / "job")
    checkpoint.begin({}, *conditions())
    for seed, like in enumerate((torch.zeros(2, 1, 16, 9, 3, 3), torch.full((1, 1, 16, 9, 2, 3), torch.nan))):
        checkpoint.append(with_trail(seed, 0, like=like))
    filled(tmp_path / "other", 1)
    TensorFile("digest").write(tmp_path / "other" / "trail_000.safetensors", {"steps": torch.zeros(1)})
    assert checkpoint.trails() == Checkpoint(tmp_path / "other").trails() == {}
    checkpoint.forget()
    assert not list((tmp_path / "job").glob("*.safetensors"))


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
    checkpoint = Checkpoint(tmp_path)
    latents = {
        START: torch.randn(1, 16, 1, 2, 3),
        END: torch.randn(1, 16, 1, 2, 3),
        "clip": torch.randn(1, 16, 4, 2, 3),
    }
    assert checkpoint.conditions() is None
    checkpoint.begin({"torch": "2.13.0"}, {0: given, 12: replace(given, pooled=torch.zeros(1, 5))}, latents)
    found, found_latents = Checkpoint(tmp_path).conditions()
    assert found.keys() == {0, 12}
    assert not found[12].pooled.any()
    assert {name: tensor.tolist() for name, tensor in found_latents.items()} == {
        name: tensor.tolist() for name, tensor in latents.items()
    }
    for name, tensor in vars(given).items():
        if tensor is None:
            assert getattr(found[0], name) is None
        else:
            assert getattr(found[0], name).dtype == tensor.dtype
            assert torch.equal(getattr(found[0], name), tensor)
    path = tmp_path / "conditions.safetensors"
    path.write_bytes(flip(path.read_bytes(), path.stat().st_size - 2))
    assert Checkpoint(tmp_path).conditions() is None


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "7", "\0", '{"a":' * 100_000, None])
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


def swapped(one, other):
    one.rename(aside := one.with_suffix(".aside"))
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize(("places", "left"), [((0, 1), 0), ((1, 2), 1), ((0, 2), 0)])
def test_a_section_in_another_ones_place_does_not_count(tmp_path, places, left):
    filled(tmp_path)
    swapped(*(tmp_path / f"section_{place:03d}.safetensors" for place in places))
    assert len(Checkpoint(tmp_path)) == left


def test_a_section_of_another_video_does_not_count(tmp_path):
    filled(tmp_path / "job")
    other = Checkpoint(tmp_path / "other")
    other.begin({}, *conditions())
    for number in range(3):
        other.append(replace(section(10 + number), index=number))
    found = Checkpoint(tmp_path / "job")
    (tmp_path / "other/section_001.safetensors").replace(tmp_path / "job/section_001.safetensors")
    with pytest.raises(OutputError, match="deleted or changed meanwhile"):
        found[1]
    assert len(Checkpoint(tmp_path / "job")) == 1


def test_sections_that_an_older_version_kept_count(tmp_path):
    (tmp_path / "job").mkdir()
    for seed in range(3):
        old = {"latents": section(seed).latents, "generator_state": section(seed).generator_state}
        TensorFile("digest").write(tmp_path / f"job/section_{seed:03d}.safetensors", old)
    found = Checkpoint(tmp_path / "job")
    assert len(found) == 3
    found.append(section(3))
    assert len(Checkpoint(tmp_path / "job")) == 4


def test_a_trail_in_another_ones_place_is_not_read(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.begin({}, *conditions())
    for seed in range(3):
        checkpoint.append(with_trail(seed, 0))
    swapped(tmp_path / "trail_001.safetensors", tmp_path / "trail_002.safetensors")
    assert list(Checkpoint(tmp_path).trails()) == [0]


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    written = set()
    for number in range(10):
        TensorFile("digest").write(path := tmp_path / str(number), {"a": torch.zeros(1)}, b="c", d="e")
        written.add(path.read_bytes())
    assert len(written) == 1
    assert TensorFile("digest").read(path)[1].items() >= {"b": "c", "d": "e"}.items()
