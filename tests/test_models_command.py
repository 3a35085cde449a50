"""`models list|download|verify|where`: on the tiny model's folder, and on a hub of this machine."""

import io
import json
import shutil
import signal
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from huggingface_hub import constants

from diffusers_helper.commands import cli
from diffusers_helper.commands import models as models_command
from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import HubSource, LocalFolder, parts, parts_for, transformer_part
from diffusers_helper.model_files.copying import copy_model
from diffusers_helper.model_files.hub import HuggingFaceHub
from diffusers_helper.model_files.local_folder import read_sums
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig
from tests.fake_hub import fake_hub
from tests.test_model_hub import SHARDS, tiny_repositories
from tests.tiny import SHIPPED, TINY_FOLDER

F1 = transformer_part("f1")
ONLINE, OFFLINE = (Namespace(config=RuntimeConfig(offline=offline), checksums=False) for offline in (False, True))
NAMES = [part.name for part in parts_for(["f1"])]
pytestmark = [pytest.mark.usefixtures("kept_environment"), pytest.mark.slow]


@pytest.fixture
def folder(tmp_path):
    """A copy of what F1 needs of the tiny model, to be spoilt; small, as the original's transformer stays away."""
    for part in parts_for(["f1"]):
        place = Path(part.repository) / part.folder
        shutil.copytree(TINY_FOLDER / place, tmp_path / place, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with fake_hub(tiny_repositories()) as server:
        yield server


@pytest.fixture
def source(hub, tmp_path):
    return HubSource(HuggingFaceHub(tmp_path / "hub", hub.url))


def run(*argv):
    return cli.main(["models", *map(str, argv)])


def cut(folder):
    path = folder / F1.repository / SHARDS[1]
    path.write_bytes(path.read_bytes()[:1000])


def drop(folder):
    shutil.rmtree(folder / F1.repository)


def keep(_folder):
    pass


@pytest.mark.parametrize(
    ("damage", "action", "code", "out", "err"),
    [
        (keep, "list", 0, "8 of 8 parts are here", ""),
        (keep, "verify", 0, "fine     transformer_f1: ", ""),
        (keep, "where", 0, f"transformer_f1\t{{folder}}/{F1.repository}\n", ""),
        (keep, "download", 0, "Everything is in {folder}.", ""),
        (keep, "verify --checksums", 0, ", 0 by checksum", ""),
        (cut, "list", 0, f"{SHARDS[1]} is cut short", ""),
        (cut, "verify", 3, f"problem  transformer_f1: {SHARDS[1]} of {F1.repository} is cut short", "Not all parts"),
        (cut, "where", 0, f"transformer_f1\t{{folder}}/{F1.repository}\n", ""),
        (cut, "download", 3, "", f"hf download {F1.repository}"),
        (drop, "list", 0, "7 of 8 parts are here", ""),
        (drop, "verify", 3, "problem  transformer_f1: config.json", "Not all parts"),
        (drop, "where", 3, "vae\t", f"transformer_f1 ({F1.repository}) is not here"),
        (drop, "download", 3, "", f"hf download {F1.repository}"),
    ],
)
def test_a_folder(folder, damage, action, code, out, err, capsys):
    damage(folder)
    assert run(*action.split(), "--models", folder, "--variant", "f1") == code
    shown = capsys.readouterr()
    assert out.format(folder=folder) in shown.out
    assert err in shown.err
    assert bool(shown.err) == bool(err)


def test_the_table_says_what_each_part_is_and_how_large(capsys):
    assert run("list", "--models", "tiny", "--variant", "f1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:9]] == NAMES
    row = lines[1 + NAMES.index("vae")].split()
    size = sum(path.stat().st_size for path in (SHIPPED / parts.VAE.repository / "vae").iterdir())
    origin = f"{parts.VAE.repository}/vae"
    assert row == ["vae", origin, "-", "exact", "(F16)", f"{size / 1e6:.1f}", "MB", "here"]
    assert lines[-1].startswith("Free on this disk: ")


def test_a_missing_part_has_the_public_size(folder, capsys):
    drop(folder)
    run("list", "--models", folder, "--variant", "f1")
    assert "~25.8 GB  not here" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "count"), [([], 9), (["--variant", "f1"], 8), (["--variant", "original"], 8)])
def test_without_a_variant_it_is_about_both(argv, count, capsys):
    run("where", "--models", "tiny", *argv)
    assert len(capsys.readouterr().out.splitlines()) == count


@pytest.mark.parametrize("argv", [["list", "--models", "/nowhere"], ["verify", "--models", "tinny"]])
def test_no_such_folder_exits_2(argv, capsys):
    assert run(*argv) == options.WRONG_SETTINGS
    assert "There is no model folder" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["remove"], ["list", "--variant", "f2"]])
def test_wrong_arguments_exit_2(argv):
    with pytest.raises(SystemExit) as ended:
        run(*argv)
    assert ended.value.code == 2


def test_nothing_is_asked_of_the_hub_but_by_download(source, hub, capsys):
    for action, code in ((models_command.list_parts, 0), (models_command.verify, 3), (models_command.where, 3)):
        assert action(source, ["f1"], ONLINE) == code
    assert hub.requests == []
    assert "0 of 8 parts are here" in capsys.readouterr().out


def test_a_download_brings_everything_and_the_second_one_nothing(source, hub, capsys):
    assert models_command.download(source, list(VARIANTS), ONLINE) == 0
    shown = capsys.readouterr()
    assert f"Everything is in {source.root}." in shown.out
    assert all(f"{part.name}: 100%" in shown.err for part in parts_for(VARIANTS))
    assert models_command.verify(source, list(VARIANTS), ONLINE) == 0
    asked = len(hub.requests)
    capsys.readouterr()
    assert models_command.download(source, list(VARIANTS), OFFLINE) == 0
    assert (len(hub.requests), capsys.readouterr().err) == (asked, "")


def test_a_broken_connection_is_taken_up_where_it_was(source, hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.break_off[SHARDS[1]] = 500_000
    assert models_command.download(source, ["f1"], ONLINE) == 0
    ranges = [headers.get("Range") for method, path, headers in hub.requests if (method, path) == ("GET", SHARDS[1])]
    assert ranges == [None, "bytes=500000-"]


def test_a_damaged_file_alone_is_fetched_again(source, hub):
    models_command.download(source, ["f1"], ONLINE)
    (source.inspect(F1)[0] / SHARDS[1]).resolve().write_bytes(b"short")
    hub.requests.clear()
    assert models_command.verify(source, ["f1"], ONLINE) == 3
    assert models_command.download(source, ["f1"], ONLINE) == 0
    assert hub.downloads == [SHARDS[1]]


def test_checksums_find_what_headers_do_not(source, hub, capsys):
    models_command.download(source, ["f1"], ONLINE)
    link = source.inspect(F1)[0] / SHARDS[1]
    data, blob = link.read_bytes(), link.resolve()
    every_byte = Namespace(config=RuntimeConfig(), checksums=True)
    assert models_command.verify(source, ["f1"], every_byte) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(", 3 by checksum")

    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert models_command.verify(source, ["f1"], ONLINE) == 0
    capsys.readouterr()
    assert models_command.verify(source, ["f1"], every_byte) == 3
    expected = f"problem  transformer_f1: {SHARDS[1]} of {F1.repository} has another checksum than on the hub"
    assert f"{expected}; delete {blob} to have" in capsys.readouterr().out

    blob.unlink()
    assert models_command.download(source, ["f1"], ONLINE) == 0
    assert link.read_bytes() == data


# a copy for a computer without a network


def copy_to(source, target):
    return models_command.copy(source, ["f1"], Namespace(config=RuntimeConfig(offline=True), target=target))


def test_a_copy_is_a_model_folder_whose_every_byte_can_be_checked(source, hub, tmp_path, capsys):
    models_command.download(source, ["f1"], ONLINE)
    target = tmp_path / "usb stick"
    capsys.readouterr()
    assert copy_to(source, target) == 0
    assert f"--models '{target}'" in capsys.readouterr().out
    assert run("verify", "--checksums", "--models", target, "--variant", "f1") == 0
    assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == [
        f"{len(part.files_in(source.inspect(part)[0]))} by checksum" for part in parts_for(["f1"])
    ]
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=target, capture_output=True)
    assert done.returncode == 0

    file = target / F1.repository / SHARDS[0]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert run("verify", "--models", target, "--variant", "f1") == 0
    assert run("verify", "--checksums", "--models", target, "--variant", "f1") == 3
    assert f"{SHARDS[0]} of {F1.repository} has another checksum" in capsys.readouterr().out


def test_a_copy_goes_on_where_it_was_stopped(folder, tmp_path):
    source, target, pieces = LocalFolder(folder), tmp_path / "copy", []
    files = [file for part in parts_for(["f1"]) for file in part.files_in(source.inspect(part)[0])]

    def stop_in_the_sixth(count):
        pieces.append(count)  # each file is one piece
        if len(pieces) == 6:
            raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        copy_model(source, parts_for(["f1"]), target, stop_in_the_sixth)
    assert all((target / file.relative_to(folder)).is_file() for file in files[:5])
    pieces.clear()
    copy_model(source, parts_for(["f1"]), target, pieces.append)
    assert pieces == [file.stat().st_size for file in files[5:]]
    LocalFolder(target).check(["f1"])


def test_what_changed_while_it_lay_there_is_not_copied(source, hub, tmp_path):
    models_command.download(source, ["f1"], ONLINE)
    blob = (source.inspect(F1)[0] / SHARDS[1]).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFilesError, match=f"{SHARDS[1]} has another checksum"):
        copy_to(source, tmp_path / "copy")
    assert not (tmp_path / "copy" / F1.repository / SHARDS[1]).exists()


def test_no_copy_of_what_is_missing_or_has_no_room(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 200_000))
    with pytest.raises(ModelFilesError, match=r"The copy needs .* MB, and 0\.2 MB are free"):
        copy_to(LocalFolder(folder), tmp_path / "copy")
    drop(folder)
    with pytest.raises(ModelFilesError, match=f"of {F1.repository} .* is missing.*models download"):
        copy_to(LocalFolder(folder), tmp_path / "copy")


def test_files_that_two_repositories_share_are_copied_once(folder, tmp_path):
    other = transformer_part("original").repository
    (folder / "framepack.json").write_text(json.dumps({"same_files": {other: F1.repository}}))
    target = tmp_path / "copy"
    for variants in (["original", "f1"], ["original"]):
        shutil.rmtree(target, ignore_errors=True)
        models_command.copy(LocalFolder(folder), variants, Namespace(config=RuntimeConfig(offline=True), target=target))
        LocalFolder(target).check(["original", "f1"])
        assert not (target / other).exists()
        assert run("verify", "--checksums", "--models", target) == 0


def test_the_settings_of_a_model_folder_are_copied(tmp_path):
    assert run("copy", tmp_path / "copy", "--models", "tiny", "--variant", "f1") == 0
    assert LocalFolder(tmp_path / "copy").defaults == LocalFolder(SHIPPED).defaults
    LocalFolder(tmp_path / "copy").check(["original", "f1"])  # one transformer serves both


def test_what_is_used_with_a_model_is_copied_with_it(folder, tmp_path):
    """A preview decoder and LoRA files, with the notes, the picture and the settings of peft beside them."""
    used = ["preview_decoder.safetensors", "loras/lean.safetensors", "loras/lean.preview.webp"]
    for name in used:
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(SHIPPED / name, place)
    (folder / "loras/of a friend").mkdir()
    for name in ("adapter_model.safetensors", "adapter_model.txt", "adapter_config.json"):
        (folder / "loras/of a friend" / name).write_bytes(b"{}")
        used.append(f"loras/of a friend/{name}")
    for name in ("diary.txt", "loras/old.ckpt", "loras/diary.txt"):
        (folder / name).write_text("mine")
    target = tmp_path / "copy"
    assert copy_to(LocalFolder(folder), target) == 0
    copied = LocalFolder(target)
    assert copied.preview_decoder == target / used[0]
    for name in used:
        assert (target / name).read_bytes() == (folder / name).read_bytes(), name
        assert name in read_sums(target)
    assert not [name for name in ("diary.txt", "loras/old.ckpt", "loras/diary.txt") if (target / name).exists()]
    shutil.copytree(folder, tmp_path / "whole")
    (tmp_path / "whole/preview_decoder.safetensors").unlink()  # a model without one is copied as before
    shutil.rmtree(tmp_path / "whole/loras")
    assert copy_to(LocalFolder(tmp_path / "whole"), tmp_path / "plain") == 0
    assert not (tmp_path / "plain/loras").exists()


def test_offline_and_missing_says_how_to_fetch(source, hub):
    with pytest.raises(ModelFilesError, match=r"Going online is switched off.*hf download"):
        models_command.download(source, ["f1"], OFFLINE)
    assert hub.requests == []


def test_too_small_a_disk_is_said_before_the_first_byte(source, hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 200_000))
    with pytest.raises(ModelFilesError, match="Make room there"):
        models_command.download(source, ["f1"], ONLINE)
    assert hub.downloads == []


def test_ctrl_c_ends_in_order_and_keeps_what_is_there(source, hub, capfd):
    class Pressed(HubSource):
        """Ctrl+C comes with the first progress."""

        def folder(self, part, *, offline=False, on_progress=None):
            def report(title, done, total):
                if done == 0:
                    signal.raise_signal(signal.SIGINT)
                on_progress(title, done, total)

            return super().folder(part, offline=offline, on_progress=report)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(CancelledError):
        models_command.download(Pressed(source.hub), ["f1"], ONLINE)
    assert "press Ctrl+C again" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert models_command.download(source, ["f1"], ONLINE) == 0


def test_progress_starts_with_what_was_here():
    with models_command._bar("transformer") as bar:
        bar.fp = io.StringIO()
        report = models_command._shown_on(bar, lambda: None)
        report("the transformer", 600, 1000)
        assert (bar.initial, bar.n, bar.total) == (600, 600, 1000)
        report("the transformer", 1000, 1000)
        assert (bar.initial, bar.n) == (600, 1000)
