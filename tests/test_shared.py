"""Weights in RAM once for several processes: who fills the memory, who waits, and what is left of those that end."""

import gc
import os
import signal
import threading
from functools import cache
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from diffusers_helper.app.groups import groups_of
from diffusers_helper.loading.building import build
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory import shared as sharing
from diffusers_helper.memory.shared import SharedFile, SharedFiles, can_share
from diffusers_helper.model_files import LocalFolder, transformer_part
from diffusers_helper.service.config import RuntimeConfig
from tests.calls import call
from tests.sharing import Pinned, run_tiny
from tests.tiny import TINY_FOLDER

pytestmark = pytest.mark.skipif(not can_share(), reason="only Linux has such memory")

KEY, OTHER = b"k" * 32, b"o" * 32
SIZES = (5000, 0, 3 * sharing.STEP + 1)


@pytest.fixture
def files():
    return SharedFiles(["one"])


@pytest.fixture
def file(files):
    return SharedFile(files.paths["one"], Pinned())


def nowhere(_filled):
    raise AssertionError("nobody fills it")


def take(file, key=KEY, room=9.0, on_wait=nowhere):
    return file.take(key, room, on_wait)


def fill(memory, value=7):
    with memory:
        buffers = [memory.buffer(size).bytes for size in SIZES]
        for buffer in buffers:
            buffer.fill_(value)
    return buffers


def used(files):
    return os.stat(files.paths["one"]).st_blocks * 512


def test_the_first_one_fills_it_and_the_next_one_finds_the_same_pages(files, file):
    first = take(file)
    assert not first.filled
    mine = fill(first)
    other = SharedFile(files.paths["one"], Pinned())
    second = take(other, room=1.0)
    assert second.filled
    assert second.room == 9.0, "what the first one had room for"
    yours = [second.buffer(size).bytes for size in SIZES]
    assert [len(buffer) for buffer in yours] == list(SIZES)
    assert all((buffer == 7).all() for buffer in yours)
    mine[0][3] = 8
    assert yours[0][3] == 8, "one memory"
    assert len(other._pinning.held) == 3
    assert not file.refused


def test_it_is_there_as_long_as_somebody_has_a_piece_of_it(files, file):
    pieces = fill(take(file))
    other = SharedFile(files.paths["one"], Pinned())
    memory = take(other)
    view = memory.buffer(SIZES[0]).bytes[2:4]
    del pieces, memory
    gc.collect()
    assert view.tolist() == [7, 7]
    assert used(files) > sum(SIZES)
    assert len(other._pinning.held) == 1
    del view
    gc.collect()
    assert used(files) == 0
    assert other._pinning.held == {}
    assert not take(file).filled


def test_others_wait_until_it_is_filled(files, file):
    memory, waits = take(file), threading.Event()
    found = []

    def wait():
        found.append(take(SharedFile(files.paths["one"], Pinned()), on_wait=lambda _filled: waits.set()))

    other = threading.Thread(target=wait)
    other.start()
    assert waits.wait(60)
    assert not found
    kept = fill(memory)
    other.join()
    assert found[0].filled
    assert (found[0].buffer(SIZES[0]).bytes == 7).all()
    del kept


def test_who_waits_can_be_stopped_and_hears_how_much_is_there(files, file):
    memory = take(file)
    piece = memory.buffer(10**6).bytes.fill_(1)
    heard = []

    def stop(filled):
        heard.append(filled)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        take(SharedFile(files.paths["one"], Pinned()), on_wait=stop)
    assert 10**6 <= heard[0] <= 10**6 + sharing.STEP
    del piece
    fill(memory)
    assert take(file).filled


def test_an_error_while_it_is_filled_empties_it_at_once(files, file):
    memory = take(file)
    with pytest.raises(OSError, match="disk") as error, memory:  # noqa: PT012 - the piece is what the error keeps
        memory.buffer(10**6).bytes.fill_(1)
        raise OSError("disk")
    assert used(files) == 0
    kept = fill(take(SharedFile(files.paths["one"], Pinned())))
    del memory, error
    gc.collect()
    assert (kept[0] == 7).all(), "who failed takes nothing from who came after"


def test_other_weights_take_the_memory_only_when_nobody_uses_it(files, file, caplog):
    kept = fill(take(file))
    other = SharedFile(files.paths["one"], Pinned())
    assert take(other, OTHER) is None
    assert other.refused
    assert "other weights are in use" in caplog.text
    assert (kept[0] == 7).all()
    del kept
    gc.collect()
    fill(take(other, OTHER), 5)
    assert not other.refused


def test_where_it_cannot_be_page_locked_it_is_not_used(files, caplog):
    refusing = SharedFile(files.paths["one"], Pinned(works=False))
    assert take(refusing) is None
    assert refusing.refused
    assert used(files) == 0
    assert "cannot be page-locked" in caplog.text
    assert not take(SharedFile(files.paths["one"], Pinned())).filled


def test_without_the_process_that_made_it_there_is_none(tmp_path, caplog):
    assert take(SharedFile(tmp_path / "gone", Pinned())) is None
    assert "No memory is shared" in caplog.text


def test_a_system_without_such_memory_shares_none():
    files = SharedFiles(["one"], possible=lambda: False)
    assert files.paths == {}
    files.free_unused()


def test_a_programs_processes_share_a_file_for_each_transformer(tmp_path):
    for settings in ({}, {"parallel": "jobs"}):
        config = RuntimeConfig(data=tmp_path, gpus="0,1", **settings)
        groups = groups_of(config, LocalFolder(TINY_FOLDER), ComputeOptions(), ())
        [paths] = {tuple(group._memory.paths.items()) for group in groups._groups}
        assert len(dict(paths)) == len(set(dict(paths).values())) == 2


# processes

SPAWN = get_context("spawn")


def half_filled(path, connection):
    memory = SharedFile(path, Pinned()).take(KEY, 9.0, nowhere)
    piece = memory.buffer(10**6).bytes.fill_(1)
    connection.send(len(piece))
    threading.Event().wait()


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_fills_anew(files, file):
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=half_filled, args=(files.paths["one"], theirs))
    process.start()
    assert ours.recv() == 10**6
    waits, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(take(file, on_wait=lambda _filled: waits.set())))
    thread.start()
    assert waits.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    thread.join()
    process.join()
    assert not found[0].filled
    assert used(files) < 10**6
    found.clear()
    gc.collect()
    files.free_unused()
    assert used(files) == 0


def results_of(count, path, variant="f1"):
    """Of so many processes: what each has mapped, bytes of blocks, result, whether it was refused; and what is left."""
    everybody, pipes, processes = SPAWN.Barrier(count), [], []
    for _ in range(count):
        ours, theirs = SPAWN.Pipe()
        pipes.append(ours)
        processes.append(SPAWN.Process(target=run_tiny, args=(TINY_FOLDER, path, variant, theirs, everybody)))
        processes[-1].start()
        theirs.close()
    found = [pipe.recv() for pipe in pipes]
    left = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return found, left


@cache
def expected():
    part, source = transformer_part("f1"), LocalFolder(TINY_FOLDER)
    model = build(part, source.folder(part), torch.float32, Place(torch.device("cpu")), lambda *_: None)
    return call(model).numpy()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_weights_once_and_compute_the_same_bits(files, count):
    found, left = results_of(count, files.paths["one"])
    assert {frozenset(names) for (names, _, _), *_ in found} == {frozenset(found[0][0][0])}
    assert len(found[0][0][0]) == 1, "one file, by its device and number"
    nbytes = found[0][1]
    for (_, resident, _), size, result, refused in found:
        assert size == nbytes <= resident, "each sees all of it"
        assert np.array_equal(result, expected())
        assert not refused
    proportional = sum(mapped[2] for mapped, *_ in found)
    assert proportional == pytest.approx(nbytes, rel=0.05), "and together they have it once; the system rounds"
    assert left == [0] * count, "nothing stays page-locked"
    assert used(files) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_whose_memory_others_use_for_something_else_has_its_own(files, file):
    kept = fill(take(file))
    [(mapped, _, result, refused)], left = results_of(1, files.paths["one"])
    assert refused
    assert mapped[1] == 0
    assert np.array_equal(result, expected())
    assert left == [0]
    assert (kept[0] == 7).all()
