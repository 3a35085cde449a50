"""The Hugging Face cache and downloads, with the real client and a hub on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import HubSource, parts, parts_for, transformer_part
from diffusers_helper.model_files.checksums import ChecksumRecord, find_changed
from diffusers_helper.model_files.hub import HuggingFaceHub, _byte_counter
from diffusers_helper.model_files.revisions import Revisions
from tests.fake_hub import COMMIT, NEWER_COMMIT, fake_hub
from tests.tiny import TINY_FOLDER

pytestmark = pytest.mark.slow

TRANSFORMER = transformer_part("f1")
SHARDS = [f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
UNWANTED = {"README.md": b"x", "vae/diffusion_pytorch_model.bin": b"x", "transformer/model.safetensors": b"x" * 99}


def tiny_repositories() -> dict[str, dict[str, bytes]]:
    """The tiny model as public repositories, among files that nobody needs."""
    repositories = {}
    for repository in {part.repository for part in parts_for(VARIANTS)}:
        root = TINY_FOLDER / repository
        files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        repositories[repository] = files | UNWANTED
    return repositories


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with fake_hub(tiny_repositories()) as hub:
        yield hub


@pytest.fixture
def source(server, tmp_path):
    return HubSource(HuggingFaceHub(tmp_path / "hub", server.url))


def test_everything_is_fetched_once_and_nothing_else(source, server):
    source.check(["f1"])
    assert server.downloads == []
    for part in parts_for(["f1"]):
        source.folder(part)
    wanted = {path for part in parts_for(["f1"]) for path in files_of(part)}
    assert sorted(server.downloads) == sorted(wanted)
    asked = len(server.requests)
    source.check(["f1"])
    for part in parts_for(["f1"]):
        source.folder(part, offline=True)
    assert len(server.requests) == asked


def files_of(part):
    root = TINY_FOLDER / part.repository
    return [str(Path(part.folder) / path.name) for path in (root / part.folder).iterdir() if path.is_file()]


def test_progress_counts_bytes_up_to_the_total(source):
    seen = []
    source.folder(TRANSFORMER, on_progress=lambda *progress: seen.append(progress))
    total = sum(path.stat().st_size for path in (TINY_FOLDER / TRANSFORMER.repository).iterdir())
    assert {(title, of) for title, _, of in seen} == {(TRANSFORMER.title, total)}
    done = [bytes_done for _, bytes_done, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)


def test_bars_that_count_files_are_not_bytes(capsys):
    seen = []
    bar = _byte_counter(seen.append)
    with bar(desc="Fetching 3 files", total=3) as files, bar(desc="Downloading", unit="B", initial=10) as received:
        files.update(3)
        received.update(5)
        files.update(100)
    assert seen == [15]
    assert capsys.readouterr() == ("", "")


def test_what_progress_raises_stops_the_download(source, server):
    def stop(_title, done, _total):
        if done:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        source.folder(TRANSFORMER, on_progress=stop)
    assert source.folder(TRANSFORMER).is_dir()


def test_interrupted_download_goes_on_at_the_missing_file(source, server):
    folder = source.folder(TRANSFORMER)
    (folder / SHARDS[1]).resolve().unlink()
    (folder / SHARDS[1]).unlink()
    server.requests.clear()
    seen = []
    source.folder(TRANSFORMER, on_progress=lambda _title, done, of: seen.append((done, of)))
    assert server.downloads == [SHARDS[1]]
    size = (folder / SHARDS[1]).stat().st_size
    assert seen[0] == (seen[0][1] - size, seen[0][1])
    assert seen[-1][0] == seen[-1][1]


def test_connection_that_breaks_is_taken_up_where_it_was(source, server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    server.break_off[SHARDS[1]] = 500_000
    source.folder(TRANSFORMER)
    ranges = [headers.get("Range") for method, path, headers in server.requests if (method, path) == ("GET", SHARDS[1])]
    assert ranges == [None, "bytes=500000-"]


@pytest.mark.parametrize("part", [TRANSFORMER, parts.VAE], ids=["at the root", "in a folder"])
def test_truncated_file_is_fetched_again(source, server, part):
    folder = source.folder(part)
    name = next(path.name for path in sorted(folder.glob("*.safetensors")))
    whole = (folder / name).read_bytes()
    (folder / name).resolve().write_bytes(whole[:1000])
    server.requests.clear()
    source.check(["f1"])
    source.folder(part)
    assert server.downloads == [str(Path(part.folder) / name)]
    assert (folder / name).read_bytes() == whole


@pytest.mark.parametrize("part", [TRANSFORMER, parts.VAE], ids=["at the root", "in a folder"])
def test_a_file_with_another_checksum_is_fetched_again(source, server, part):
    path = str(Path(part.folder) / next((TINY_FOLDER / part.repository / part.folder).glob("*.safetensors")).name)
    server.garble[path] = 1
    folder = source.folder(part)
    assert server.downloads.count(path) == 2
    assert find_changed(part, folder) == ([], len(list(folder.glob("*.safetensors"))))


def test_a_file_that_never_has_its_checksum_is_named(source, server):
    server.garble[SHARDS[2]] = 9
    with pytest.raises(ModelFilesError, match=f"{SHARDS[2]} .* another checksum.*downloaded again already"):
        source.folder(TRANSFORMER)
    assert server.downloads.count(SHARDS[2]) == 2


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "401: the token in HF_TOKEN"),
        (403, "403: the token"),
        (404, "404: .* is not there"),
        (429, "429: too many"),
    ],
)
@pytest.mark.parametrize("call", ["check", "folder"])
def test_what_the_hub_refuses_is_told_with_what_to_do(source, server, monkeypatch, status, told, call):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client tries again
    server.refuse[TRANSFORMER.repository] = status
    with pytest.raises(ModelFilesError, match=f"{TRANSFORMER.repository} could not be read .*{told}") as error:
        source.check(["f1"]) if call == "check" else source.folder(TRANSFORMER)
    assert f"hf download {TRANSFORMER.repository}" in str(error.value)
    server.refuse.clear()
    assert source.folder(TRANSFORMER).is_dir()


def test_the_token_is_in_no_message_and_no_log(source, server, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.refuse[TRANSFORMER.repository] = 401
    with caplog.at_level("DEBUG"), pytest.raises(ModelFilesError) as error:
        source.folder(TRANSFORMER)
    assert "hf_secret" not in f"{error.value} {error.value.__cause__} {caplog.text}"
    assert any("hf_secret" in str(headers) for _, _, headers in server.requests)  # and yet it was sent


def test_a_file_that_the_hub_lacks_is_named(source, server):
    del server.commits[COMMIT][TRANSFORMER.repository][SHARDS[1]]
    with pytest.raises(ModelFilesError, match=f"{SHARDS[1]} of {TRANSFORMER.repository} .* is missing"):
        source.folder(TRANSFORMER)


def test_what_was_downloaded_is_compared_once(source, tmp_path):
    source.record = ChecksumRecord(tmp_path / "checksums.json")
    folder, read = source.folder(TRANSFORMER), []
    source.require_unchanged(TRANSFORMER, folder, lambda *told: read.append(told))
    assert read == []
    file = (folder / SHARDS[0]).resolve()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFilesError, match=f"{SHARDS[0]} of .* has another checksum"):
        source.require_unchanged(TRANSFORMER, folder, lambda *told: read.append(told))
    assert len(read) == 1


# which version of a repository


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "models.lock"


def hub_with(lock, server, cache):
    return HubSource(HuggingFaceHub(cache, server.url, Revisions(lock)))


def test_the_first_download_decides_for_a_version(server, lock, tmp_path):
    hub_with(lock, server, tmp_path / "one").folder(TRANSFORMER)
    assert json.loads(lock.read_text()) == {TRANSFORMER.repository: COMMIT}
    server.commits[NEWER_COMMIT] = tiny_repositories()
    later = hub_with(lock, server, tmp_path / "two")  # an empty cache, or another computer with a copy of the lock
    assert later.revision(TRANSFORMER) == COMMIT
    assert COMMIT in str(later.folder(TRANSFORMER))
    assert NEWER_COMMIT in str(later.folder(parts.VAE))  # of another repository, which nobody decided for
    assert json.loads(lock.read_text())[parts.VAE.repository] == NEWER_COMMIT


def test_a_version_that_is_gone_is_told(server, lock, tmp_path):
    lock.write_text(json.dumps({TRANSFORMER.repository: "c" * 40}))
    with pytest.raises(ModelFilesError, match=r"404.*models\.lock"):
        hub_with(lock, server, tmp_path / "hub").folder(TRANSFORMER)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": "main"}', "\xff"])
def test_a_lock_that_makes_no_sense_is_told(server, lock, tmp_path, content):
    lock.write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelFilesError, match=r"models\.lock is no list of commits"):
        hub_with(lock, server, tmp_path / "hub").check(["f1"])


def test_a_lock_that_cannot_be_written_stops_no_download(server, tmp_path, caplog):
    source = hub_with(tmp_path / "none" / "models.lock", server, tmp_path / "hub")
    assert source.folder(TRANSFORMER).is_dir()
    assert "version is not kept" in caplog.text


def test_file_that_is_damaged_on_the_hub_is_named(source, server):
    server.commits[COMMIT][TRANSFORMER.repository][SHARDS[0]] = b"short"
    with pytest.raises(ModelFilesError, match=f"{SHARDS[0]} .* is cut short.*downloaded again already"):
        source.folder(TRANSFORMER)


def test_foreign_file_in_the_cache_is_fetched_again(source, server):
    folder = source.folder(parts.VAE)
    other = source.folder(parts.IMAGE_ENCODER)
    shutil.copyfile(other / "config.json", (folder / "config.json").resolve())
    with pytest.raises(
        ModelFilesError, match=r"config\.json .* describes siglip_vision_model, where Autoenc.* is needed"
    ):
        source.folder(parts.VAE, offline=True)
    server.requests.clear()
    source.folder(parts.VAE)
    assert server.downloads == ["vae/config.json"]


def test_files_of_two_commits_are_never_mixed(source, server):
    source.folder(parts.VAE)
    server.commits[NEWER_COMMIT] = tiny_repositories()
    server.commits[NEWER_COMMIT][parts.TOKENIZER.repository]["tokenizer/tokenizer.json"] += b" " * 1000
    seen = []
    folder = source.folder(parts.TOKENIZER, on_progress=lambda *progress: seen.append(progress))
    assert COMMIT in str(folder)
    assert seen[-1][2] == sum(path.stat().st_size for path in folder.iterdir())
    assert COMMIT in str(source.folder(parts.VAE, offline=True))


def test_only_pickle_on_the_hub_is_refused(source, server):
    files = server.commits[COMMIT][parts.VAE.repository]
    del files["vae/diffusion_pytorch_model.safetensors"]
    with pytest.raises(ModelFilesError, match="has no safetensors files of the VAE"):
        source.check(["f1"])


def test_token_is_used(source, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source.folder(parts.TOKENIZER)
    sent = [{key.lower(): value for key, value in headers.items()} for _, _, headers in server.requests]
    assert {headers.get("authorization") for headers in sent} == {"Bearer hf_secret"}


# what cannot be had


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(), "OSError"), (ValueError("  \n "), "ValueError"), (RuntimeError("first\nsecond"), "first")],
)
def test_an_error_of_the_client_is_one_line_even_without_a_text(source, monkeypatch, error, reason):
    def fail(*_arguments, **_settings):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(ModelFilesError, match=rf"could not be read from the Hugging Face hub \({reason}\)\."):
        source.check(["f1"])


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        (1, ""),
        (2, "Files of one more part are not in order either."),
        (3, "Files of 2 more parts are not in order either."),
    ],
)
def test_how_many_parts_are_not_in_order(source, lacking, sentence):
    for part in parts_for(["f1"]):
        source.folder(part)
    for part in (TRANSFORMER, parts.VAE, parts.IMAGE_ENCODER)[:lacking]:
        folder = source.inspect(part)[0]
        (folder / part.config).unlink()
    with pytest.raises(ModelFilesError, match="is missing") as caught:
        source.check(["f1"], offline=True)
    assert ("not in order either" in str(caught.value)) == (lacking > 1)
    assert sentence in str(caught.value)


def assert_says_how_to_fetch(error, cache_dir, gigabytes):
    text = str(error.value)
    for repository in {part.repository for part in parts_for(["f1"])}:
        assert f"hf download {repository} --include " in text
    assert f"Still to download: {gigabytes} GB; free in {cache_dir}: " in text
    assert f"--cache-dir {cache_dir}" in text


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_and_missing_names_repository_and_command(source, server, tmp_path, monkeypatch, by_environment):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by_environment)
    with pytest.raises(ModelFilesError, match=r"is missing.*Going online is switched off") as error:
        source.check(["f1"], offline=not by_environment)
    assert_says_how_to_fetch(error, tmp_path / "hub", "42.4")
    with pytest.raises(ModelFilesError, match="hf download lllyasviel/FramePack_F1_I2V_HY_20250503"):
        source.folder(TRANSFORMER, offline=not by_environment)
    assert server.requests == []


def test_no_network_and_missing_names_repository_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    source = HubSource(HuggingFaceHub(tmp_path / "hub", f"http://127.0.0.1:{port}"))
    with pytest.raises(ModelFilesError, match="could not be read from the Hugging Face hub") as error:
        source.check(["f1"])
    assert_says_how_to_fetch(error, tmp_path / "hub", "42.4")


def test_too_small_a_disk_is_said_before_the_download(source, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 200_000))
    with pytest.raises(ModelFilesError, match=r"Still to download: 1\d\.\d MB; free in .*: 0\.2 MB.*HF_HOME"):
        source.check(["f1", "original"])
    assert server.downloads == []


def test_what_is_here_counts_against_the_disk(source, monkeypatch):
    for part in parts_for(["f1"]):
        folder = source.folder(part)
    (folder / SHARDS[2]).resolve().unlink()
    (folder / SHARDS[2]).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 150_000))
    source.check(["f1"])  # 142,592 bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 140_000))
    with pytest.raises(ModelFilesError, match=f"{SHARDS[2]} of {TRANSFORMER.repository}.*is missing"):
        source.check(["f1"])


def test_hf_home_is_honoured(tmp_path):
    code = "from diffusers_helper.model_files.hub import HuggingFaceHub; print(HuggingFaceHub().cache_dir)"
    environment = os.environ | {"HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(tmp_path / "hub")
