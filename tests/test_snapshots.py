"""Caches as they are met: what is found in each, offline and online, and how many bytes a hub on this machine sends."""

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.model_files import HubSource, parts, parts_for, resolve_models, transformer_part
from diffusers_helper.model_files.hub import HuggingFaceHub
from diffusers_helper.model_files.revisions import Revisions
from diffusers_helper.model_files.snapshots import SnapshotFinder
from tests.fake_hub import COMMIT, NEWER_COMMIT, fake_hub
from tests.test_model_hub import SHARDS, tiny_repositories
from tests.tiny import TINY_FOLDER

pytestmark = pytest.mark.slow

F1 = transformer_part("f1")
REPOSITORIES = {part.repository for part in parts_for(["f1"])}


@pytest.fixture(scope="module")
def server():
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    with fake_hub(tiny_repositories()) as hub:
        newer = tiny_repositories()
        for repository in REPOSITORIES:  # another text beside the same weights, and one other weight file
            newer[repository]["README.md"] = b"newer"
        newer[parts.TOKENIZER.repository]["tokenizer/tokenizer_config.json"] += b" "
        hub.commits = {NEWER_COMMIT: newer, COMMIT: hub.commits[COMMIT]}  # the last is the newest
        yield hub
    constants.HF_HUB_OFFLINE = before


@pytest.fixture(scope="module")
def downloaded(server, tmp_path_factory):
    """A whole cache of F1, as the client leaves it."""
    cache = tmp_path_factory.mktemp("downloaded")
    fetch_all(HubSource(HuggingFaceHub(cache, server.url)))
    return cache


@pytest.fixture
def cache(downloaded, tmp_path):
    return Path(shutil.copytree(downloaded, tmp_path / "hub", symlinks=True))


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "models.lock"


def source_of(server, cache, lock):
    server.sent = 0
    server.requests.clear()
    return HubSource(HuggingFaceHub(cache, server.url, Revisions(lock)))


def fetch_all(source, **settings):
    source.check(["f1"], **settings)
    return [source.folder(part, **settings) for part in parts_for(["f1"])]


def roots(cache):
    return [cache / f"models--{repository.replace('/', '--')}" for repository in REPOSITORIES]


def pin(lock, commit):
    lock.write_text(json.dumps(dict.fromkeys(REPOSITORIES, commit)))


# each function spoils a cache, or the lock beside it, and nothing has to be fetched for it


def as_it_was(cache, lock):
    pass


def pinned_and_without_refs(cache, lock):
    """What a download of a given commit leaves."""
    pin(lock, COMMIT)
    without_refs(cache, lock)


def without_refs(cache, lock):
    for root in roots(cache):
        shutil.rmtree(root / "refs")


def newline_in_refs(cache, lock):
    for root in roots(cache):
        (root / "refs" / "main").write_text(f" {COMMIT}\r\n")


def refs_of_another_world(cache, lock):
    for root in roots(cache):
        (root / "refs" / "main").write_bytes(b"../../\xff\0" * 1000)


def refs_is_a_folder(cache, lock):
    for root in roots(cache):
        (root / "refs" / "main").unlink()
        (root / "refs" / "main").mkdir()


def moved_on(cache, lock):
    """Another program has asked for the newest version, and begun with it."""
    for root in roots(cache):
        newer = root / "snapshots" / NEWER_COMMIT
        newer.mkdir()
        (newer / "config.json").write_text("{}")
        (root / "refs" / "main").write_text(NEWER_COMMIT)


def moved_on_with_a_lock(cache, lock):
    pin(lock, COMMIT)
    for root in roots(cache):  # and completely
        shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / NEWER_COMMIT, symlinks=True)
        (root / "refs" / "main").write_text(NEWER_COMMIT)


def copies_for_links(cache, lock):
    for root in roots(cache):
        whole = shutil.copytree(root / "snapshots", root / "copied")
        shutil.rmtree(root / "snapshots")
        whole.rename(root / "snapshots")
        shutil.rmtree(root / "blobs")


def copies_without_refs(cache, lock):
    copies_for_links(cache, lock)
    without_refs(cache, lock)


def a_second_one_whose_links_lead_nowhere(cache, lock):
    for root in roots(cache):
        shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / NEWER_COMMIT, symlinks=True)
        for link in (root / "snapshots" / NEWER_COMMIT).rglob("*.json"):
            link.unlink()
            link.symlink_to("../../blobs/nothing")
        (root / "refs" / "main").write_text(NEWER_COMMIT)


def a_pinned_one_that_is_not_here(cache, lock):
    """It is not fetched, as another is here whole; the log says so."""
    pin(lock, NEWER_COMMIT)


WHOLE = [
    as_it_was,
    pinned_and_without_refs,
    without_refs,
    newline_in_refs,
    refs_of_another_world,
    refs_is_a_folder,
    moved_on,
    moved_on_with_a_lock,
    copies_for_links,
    copies_without_refs,
    a_second_one_whose_links_lead_nowhere,
    a_pinned_one_that_is_not_here,
]


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "online"])
@pytest.mark.parametrize("spoil", WHOLE, ids=lambda spoil: spoil.__name__)
def test_nothing_is_fetched_where_a_version_is_complete(server, cache, lock, spoil, offline):
    spoil(cache, lock)
    source = source_of(server, cache, lock)
    folders = fetch_all(source, offline=offline)
    assert {COMMIT in folder.parts for folder in folders} == {True}
    assert (server.sent, server.requests) == (0, [])


# and where something is lacking, only that comes


def size_of(part, *names):
    return sum((TINY_FOLDER / part.repository / part.folder / name).stat().st_size for name in names)


def links_that_lead_nowhere(cache, lock):
    (folder,) = cache.glob(f"models--{F1.repository.replace('/', '--')}/snapshots/*")
    (folder / SHARDS[1]).resolve().unlink()
    return size_of(F1, SHARDS[1])


def half_downloaded(cache, lock):
    (folder,) = cache.glob(f"models--{F1.repository.replace('/', '--')}/snapshots/*")
    for name in SHARDS[1:]:
        (folder / name).resolve().unlink()
        (folder / name).unlink()
    (folder.parents[1] / "blobs" / "x.incomplete").write_bytes(b"half")
    return size_of(F1, *SHARDS[1:])


def half_downloaded_and_pinned(cache, lock):
    pin(lock, COMMIT)
    lacking = half_downloaded(cache, lock)
    without_refs(cache, lock)
    return lacking


def only_links_are_missing(cache, lock):
    """The content is there: it came with another version."""
    (folder,) = cache.glob(f"models--{F1.repository.replace('/', '--')}/snapshots/*")
    (folder / SHARDS[1]).unlink()
    return 0


def pinned_beside_half_of_another(cache, lock):
    """Neither is whole; the pinned one is completed, with the files that the two share."""
    lacking = half_downloaded(cache, lock)
    pin(lock, NEWER_COMMIT)
    return lacking


PARTIAL = [
    links_that_lead_nowhere,
    half_downloaded,
    half_downloaded_and_pinned,
    only_links_are_missing,
    pinned_beside_half_of_another,
]


@pytest.mark.parametrize("spoil", PARTIAL, ids=lambda spoil: spoil.__name__)
def test_only_what_is_lacking_is_fetched(server, cache, lock, spoil):
    lacking = spoil(cache, lock)
    with pytest.raises(ModelFilesError, match=r"is missing.*Going online is switched off"):
        fetch_all(source_of(server, cache, lock), offline=True)
    assert server.sent == 0
    source = source_of(server, cache, lock)
    fetch_all(source)
    assert server.sent == lacking
    fetch_all(source_of(server, cache, lock), offline=True)


def test_the_room_that_is_asked_for_is_what_is_fetched(server, cache, lock, monkeypatch):
    lacking = pinned_beside_half_of_another(cache, lock)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, lacking - 1))
    with pytest.raises(ModelFilesError, match="Make room there"):
        source_of(server, cache, lock).check(["f1"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, lacking + 100))
    source_of(server, cache, lock).check(["f1"])


def test_all_parts_of_a_repository_are_of_one_version(server, cache, lock):
    """The older one has more whole parts, the newer one a tokenizer that the older one lacks."""
    root = cache / f"models--{parts.VAE.repository.replace('/', '--')}"
    newer = root / "snapshots" / NEWER_COMMIT
    shutil.copytree(root / "snapshots" / COMMIT / "tokenizer", newer / "tokenizer", symlinks=True)
    (root / "snapshots" / COMMIT / "tokenizer" / "tokenizer.json").unlink()
    pin(lock, COMMIT)
    source = source_of(server, cache, lock)
    assert {COMMIT in folder.parts for folder in fetch_all(source)} == {True}


@pytest.mark.parametrize(
    ("spoil", "told", "level"),
    [
        (pinned_and_without_refs, "version aaaaaaa, which models.lock names.", "INFO"),
        (newline_in_refs, "version aaaaaaa, which the cache's refs/main names.", "INFO"),
        (without_refs, "version aaaaaaa, which is the only complete one in the cache.", "INFO"),
        (
            a_pinned_one_that_is_not_here,
            "the cache's refs/main names. models.lock names bbbbbbb, which is not in the cache, or not all of it.",
            "WARNING",
        ),
    ],
)
def test_which_one_was_taken_is_told_once(server, cache, lock, caplog, spoil, told, level):
    spoil(cache, lock)
    source = source_of(server, cache, lock)
    with caplog.at_level("INFO"):
        fetch_all(source)
        fetch_all(source)
    said = [(record.levelname, record.message) for record in caplog.records if F1.repository in record.message]
    assert said == [(level, f"{F1.repository}: {told}" if told.startswith("version") else said[0][1])]
    assert told in source.chosen(F1)


def test_of_several_complete_ones_the_newest_is_taken(cache, lock, server):
    without_refs(cache, lock)
    for root in roots(cache):
        shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / NEWER_COMMIT, symlinks=True)
        os.utime(root / "snapshots" / COMMIT, (1, 1))
    source = source_of(server, cache, lock)
    assert {NEWER_COMMIT in folder.parts for folder in fetch_all(source, offline=True)} == {True}
    assert "the newest of several complete ones" in source.chosen(F1)


def test_what_was_found_complete_is_looked_at_again_when_it_changed(cache):
    finder = SnapshotFinder()
    assert finder.find(cache, F1.repository, None).complete
    (folder,) = cache.glob(f"models--{F1.repository.replace('/', '--')}/snapshots/*")
    (folder / SHARDS[0]).resolve().write_bytes(b"short")
    assert not finder.find(cache, F1.repository, None).complete


# another program's folder, as --models


@pytest.mark.parametrize("place", [".", "hub", "hf_download/hub", "hf_download"])
@pytest.mark.parametrize("deeper", [False, True])
def test_another_programs_cache_is_a_choice_of_models(cache, tmp_path, place, deeper):
    """FramePack and FramePack-Studio keep theirs in hf_download/hub."""
    old = tmp_path / "old"
    (old / place).parent.mkdir(parents=True, exist_ok=True)
    cache.rename(old / place) if place != "." else cache.rename(old)
    chosen = next((old / place).glob("models--*FramePack*")) if deeper else old
    source = resolve_models(str(chosen), accelerator=False)
    assert isinstance(source, HubSource)
    assert source.root == (old / place).resolve()
    fetch_all(source, offline=True)


def test_a_model_folder_with_a_cache_in_it_stays_a_model_folder(cache, tmp_path):
    folder = tmp_path / "mine"
    (folder / F1.repository).mkdir(parents=True)
    cache.rename(folder / "hub")
    assert not isinstance(resolve_models(str(folder), accelerator=False), HubSource)
