"""The embedding cache: an entry is exactly what was put in, or not there."""

import os

import pytest
import torch

from diffusers_helper.loading.embedding_cache import Embedding, EmbeddingCache, key_of

EMBEDDING = Embedding(
    {"llama": torch.randn(1, 3, 8).half(), "pooled": torch.randn(1, 4, dtype=torch.bfloat16)}, ("It was cut.",)
)


def same(found, put):
    return found.notes == put.notes and all(
        torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
        for name, tensor in put.tensors.items()
    )


def test_what_was_put_comes_back_exactly_and_in_other_processes_too(tmp_path):
    EmbeddingCache(tmp_path / "new" / "folder").put("a", EMBEDDING)
    assert same(EmbeddingCache(tmp_path / "new" / "folder").get("a"), EMBEDDING)
    assert EmbeddingCache(tmp_path / "new" / "folder").get("b") is None
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("folder", "key"), [(None, "a"), ("here", None)])
def test_without_a_folder_or_a_key_nothing_is_kept(tmp_path, folder, key):
    cache = EmbeddingCache(tmp_path / folder if folder else None)
    cache.put(key, EMBEDDING)
    assert cache.get(key) is None
    assert not list(tmp_path.iterdir())


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b"", lambda _: b"{}" * 50])
def test_a_damaged_entry_is_a_miss_with_a_line_in_the_log(tmp_path, caplog, damage):
    cache = EmbeddingCache(tmp_path)
    cache.put("a", EMBEDDING)
    file = tmp_path / "a.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get("a") is None
    assert "a.safetensors cannot be used" in caplog.text
    cache.put("a", EMBEDDING)
    assert same(cache.get("a"), EMBEDDING)


def test_the_least_recently_used_entries_go_first(tmp_path):
    size = 2048
    cache = EmbeddingCache(tmp_path, limit=3 * (size + 500))
    for age, key in enumerate("abc"):
        cache.put(key, Embedding({"x": torch.zeros(size, dtype=torch.uint8)}))
        os.utime(tmp_path / f"{key}.safetensors", (age, age))
    assert cache.get("a")  # now the newest
    cache.put("d", Embedding({"x": torch.zeros(size, dtype=torch.uint8)}))
    assert {file.stem for file in tmp_path.iterdir()} == {"a", "c", "d"}


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    EmbeddingCache(tmp_path / "file").put("a", EMBEDDING)
    assert "could not be kept" in caplog.text


def test_keys_differ_with_every_fact():
    facts = [("a",), ("b",), ("a", "b"), (["a"], "b"), ("\ud800",), ("",), ()]
    assert len({key_of(*fact) for fact in facts}) == len(facts)
