"""A checksummed file of tensors; the two formats in use stay readable as they were written before."""

import hashlib
import os

import pytest
import torch
from safetensors.torch import save

from diffusers_helper.core.errors import OutputError
from diffusers_helper.loading.tensor_file import DamagedFileError, TensorFile

KINDS = [TensorFile("digest"), TensorFile("sha256", separator=";")]
TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3).t(),
    "a": torch.tensor([True, False]),
    "c": torch.randn(3).bfloat16(),
    "d": torch.tensor(2.0),
    "e": torch.zeros(0, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_comes_back(tmp_path, kind):
    kind.write(tmp_path / "a", TENSORS, notes="x")
    found, metadata = kind.read(tmp_path / "a")
    assert metadata["notes"] == "x"
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    assert os.listdir(tmp_path) == ["a"]


def test_tensors_stay_what_they_are_when_their_file_changes(tmp_path):
    KINDS[0].write(tmp_path / "a", TENSORS)
    found, _ = KINDS[0].read(tmp_path / "a")
    os.truncate(tmp_path / "a", 0)
    assert torch.equal(found["b"], TENSORS["b"])


@pytest.mark.parametrize(("field", "separator"), [("digest", ""), ("sha256", ";")])
def test_the_checksum_is_over_names_types_shapes_and_contents_in_the_order_of_names(tmp_path, field, separator):
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[7]], dtype=torch.uint8)}
    text = f"a torch.uint8 (1, 1){separator}".encode() + b"\7" + f"b torch.float32 (2,){separator}".encode()
    checksum = hashlib.sha256(text + tensors["b"].numpy().tobytes()).hexdigest()
    (tmp_path / "old").write_bytes(save(tensors, metadata={field: checksum}))
    assert torch.equal(TensorFile(field, separator).read(tmp_path / "old")[0]["a"], tensors["a"])


@pytest.mark.parametrize("damage", ["empty", "text", "other checksum", "no checksum", "folder", "pipe", "deep"])
def test_all_that_was_not_written_like_this_is_damaged(tmp_path, damage):
    path = tmp_path / "a"
    match damage:
        case "empty" | "text" | "deep":
            path.write_bytes(
                {"empty": b"", "text": b"What?" * 99, "deep": b"\xff\xff\0\0\0\0\0\0" + b"[" * 65535}[damage]
            )
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes(
                save(TENSORS | {"b": TENSORS["b"].contiguous()}, {"digest": "0"} if "other" in damage else None)
            )
    with pytest.raises(DamagedFileError):
        KINDS[0].read(path)


def test_a_file_that_is_not_there_and_one_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        KINDS[0].read(tmp_path / "none")
    with pytest.raises(OutputError):
        KINDS[0].write(tmp_path / "none/a", TENSORS)
