"""The small decoder of previews: what it makes of latents, which files it takes, and what is shown without one."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.encoders.hunyuan import vae_decode_fake
from diffusers_helper.jobs.previewer import MOST_SIDE, LatentPreviewer, SmallDecoder
from diffusers_helper.loading.preview_decoder import read_preview_decoder
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.models.preview_decoder import PreviewDecoder
from tests.test_previewer import size_of
from tests.tiny import SHIPPED

SMALL = (8, 6, 4, 4)
PUBLIC = {
    "1.weight": (256, 16, 3, 3),
    "1.bias": (256,),
    "3.conv.0.weight": (256, 512, 3, 3),
    "5.conv.4.bias": (256,),
    "7.conv.weight": (256, 256, 1, 1),
    "8.weight": (128, 256, 3, 3),
    "13.conv.weight": (256, 128, 1, 1),
    "14.weight": (64, 128, 3, 3),
    "17.conv.2.weight": (64, 64, 3, 3),
    "19.conv.weight": (128, 64, 1, 1),
    "20.weight": (64, 64, 3, 3),
    "22.weight": (3, 64, 3, 3),
    "22.bias": (3,),
}
"""Some of the names and shapes of TAEHV's file for HunyuanVideo."""


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return PreviewDecoder(SMALL).requires_grad_(False).eval()


@pytest.fixture
def file(decoder, tmp_path):
    path = tmp_path / "preview_decoder.safetensors"
    save_file(decoder.state_dict() | {"encoder.0.weight": torch.zeros(1)}, path)
    return path


def test_its_weights_are_called_as_the_public_ones_are():
    with torch.device("meta"):
        found = PreviewDecoder((256, 128, 64, 64)).state_dict()
    assert {name: tuple(found[f"decoder.{name}"].shape) for name in PUBLIC} == PUBLIC
    assert len(found) == 64


@pytest.mark.parametrize(
    ("doublings", "all_frames", "shape"),
    [
        (3, True, (2, 3, 17, 32, 48)),
        (3, False, (2, 3, 5, 32, 48)),
        (1, False, (2, 3, 5, 8, 12)),
        (0, True, (2, 3, 17, 4, 6)),
    ],
)
def test_frames_are_as_many_and_as_large_as_asked_for(decoder, doublings, all_frames, shape):
    latents = torch.randn(2, 16, 5, 4, 6)
    out = decoder(latents, doublings, all_frames=all_frames)
    assert out.shape == shape
    past, parts = {}, latents.split(2, dim=2)
    assert torch.allclose(
        torch.cat([decoder(part, doublings, all_frames=all_frames, past=past) for part in parts], dim=2), out, atol=1e-6
    ), "in parts it is the same video"
    assert torch.allclose(decoder(latents[1:], doublings, all_frames=all_frames), out[1:], atol=1e-6)


def test_frames_depend_on_what_is_before_them_alone(decoder):
    latents = torch.randn(1, 16, 5, 4, 4)
    changed = latents.clone()
    changed[:, :, 3] += 1
    before, after = decoder(latents), decoder(changed)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9:13], after[:, :, 9:13])
    assert not torch.equal(before[:, :, 13:], after[:, :, 13:]), "blocks remember the frame before"


def test_a_file_tells_its_widths_and_an_encoder_beside_is_left_out(decoder, file):
    found = read_preview_decoder(file)
    assert (found.widths, found.growth) == (SMALL, (1, 2, 2))
    latents = torch.randn(1, 16, 2, 4, 4)
    assert torch.equal(found(latents), decoder(latents))


def changed(name, change):
    """What a file holds in which one of the weights was changed."""
    return {**(weights := PreviewDecoder(SMALL).state_dict()), name: change(weights[name].clone())}


LAST = "decoder.22.weight"
OTHERS = {
    "none": None,
    "empty": b"",
    "GGUF": b"GGUF",
    "a pointer to it": b"version https://git-lfs.github.com/spec/v1\n",
    "another model's": {"a": torch.zeros(1)},
    "one weight": {"decoder.1.weight": torch.zeros(8, 16, 3, 3)},
    "a weight without axes": {"decoder.1.weight": torch.tensor(1.0)},
    "NaN": changed(LAST, lambda weight: weight.fill_(torch.nan)),
    "infinity": changed("decoder.1.bias", lambda weight: weight.fill_(torch.inf)),
    "whole numbers": changed(LAST, torch.Tensor.int),
    "complex numbers": changed(LAST, lambda weight: weight * 1j),
    "one weight more": changed(LAST, lambda weight: weight) | {"decoder.23.weight": torch.zeros(3)},
    "widths beyond any memory": changed("decoder.8.weight", lambda _weight: torch.zeros(10**12, 0)),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file_is_a_sentence(tmp_path, content):
    path = tmp_path / "other.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    require_sentence(path)


def test_what_is_no_file_is_a_sentence(tmp_path):
    (tmp_path / "other.safetensors").mkdir()
    require_sentence(tmp_path / "other.safetensors")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe_other.safetensors")  # nobody writes to it
        require_sentence(tmp_path / "pipe_other.safetensors")


def test_a_large_model_is_refused_before_it_takes_memory(tmp_path):
    """The file is as large as its header says, and takes no room on the disk."""
    size = 4 * 10**12
    header = json.dumps({"decoder.1.weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, size]}}).encode()
    with (path := tmp_path / "other.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    require_sentence(path, "larger than a preview decoder")


def require_sentence(path, reason=""):
    with pytest.raises(
        ModelFilesError, match=rf"other\.safetensors cannot be used, so previews show rough colours alone: .*{reason}"
    ):
        read_preview_decoder(path)


@pytest.mark.parametrize(("height", "width", "side"), [(16, 16, 8), (80, 76, 4), (160, 90, 2), (400, 16, 1)])
def test_a_preview_is_no_larger_than_a_page_shows(decoder, height, width, side):
    found = SmallDecoder(decoder)(torch.randn(1, 16, 2, height, width))
    assert found.shape == (1, 3, 2, side * height, side * width)
    assert 0 <= found.min() <= found.max() <= 1
    assert side == 1 or side * max(height, width) <= MOST_SIDE


def test_previews_are_strips_of_its_frames(decoder):
    strip = LatentPreviewer(SmallDecoder(decoder))(torch.randn(1, 16, 9, 8, 12))
    assert size_of(strip) == ("JPEG", (9 * 96, 64))


def test_without_memory_previews_go_on_with_colours_alone(decoder):
    calls = []

    class Full(torch.nn.Module):
        def forward(self, *_given, **_named):
            calls.append(1)
            raise torch.OutOfMemoryError

    latents = torch.randn(1, 16, 3, 4, 4)
    decode = SmallDecoder(Full())
    assert torch.equal(decode(latents), vae_decode_fake(latents))
    assert torch.equal(decode(latents), vae_decode_fake(latents))
    assert len(calls) == 1


def test_numbers_that_half_precision_cannot_hold_are_shown_as_black(decoder):
    decoder.decoder[-1].bias.fill_(torch.nan)
    assert SmallDecoder(decoder)(torch.randn(1, 16, 2, 4, 4)).eq(0).all()


def test_weights_in_half_precision_are_taken(decoder, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({name: weight.half() for name, weight in decoder.state_dict().items()}, path)
    assert torch.allclose(
        read_preview_decoder(path)(torch.ones(1, 16, 1, 2, 2)), decoder(torch.ones(1, 16, 1, 2, 2)), atol=0.01
    )


def test_a_model_folder_may_have_one(file):
    assert LocalFolder(file.parent).preview_decoder == file
    file.unlink()
    assert LocalFolder(file.parent).preview_decoder is None


def test_the_tiny_model_comes_with_one():
    file = LocalFolder(SHIPPED).preview_decoder
    assert file.stat().st_size < 2_000_000
    assert read_preview_decoder(file)(torch.zeros(1, 16, 1, 2, 2)).shape == (1, 3, 1, 16, 16)
