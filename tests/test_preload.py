"""Loading ahead: what is worth it, how far it is, and that nothing it meets ends the program."""

import threading

import pytest
import torch

from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.gradio.stage.loading import card
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.loading.components import Components, LoadingProgress
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.placement import Placement
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.memory import MemoryPolicy
from diffusers_helper.memory.ram import Ram
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.preload import COMFORT, Loading, PartLoading, Preload, choose
from tests.tiny import TINY_FOLDER

GB = 10**9
SMALL = ["tokenizer", "text_encoder_2", "tokenizer_2", "vae", "image_encoder", "feature_extractor"]
SIZES = {
    "text_encoder": 15 * GB,
    "transformer_f1": 26 * GB,
    "vae": GB // 2,
    "image_encoder": GB // 2,
    "text_encoder_2": GB // 4,
}


@pytest.fixture
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


def as_on(monkeypatch, components, device, *, resident, fp8=False):
    """Components that think to be on such a machine, at the public sizes."""
    components.placement = Placement(torch.device(device), ComputeOptions(fp8=TINY_FOLDER if fp8 else None))
    components.residency.policy = MemoryPolicy(resident=resident, preserved_gb=6, tile_vae=not resident)
    monkeypatch.setattr("diffusers_helper.model_files.parts.Part.bytes_in", lambda part, _: SIZES.get(part.name, 0))
    monkeypatch.setattr(
        "diffusers_helper.loading.placement.stored_numbers", lambda part, _: {"BF16": SIZES.get(part.name, 0) // 2}
    )


def with_free(gigabytes):
    """So much RAM beside the user's comfort."""
    return lambda: Ram(int(gigabytes * GB) + COMFORT, 0)


@pytest.mark.parametrize(
    ("device", "resident", "free", "fp8", "large"),
    [
        ("cuda", True, 3, False, ["text_encoder", "transformer_f1"]),
        ("cuda", False, 21, False, ["transformer_f1"]),  # without what a video reads once
        ("cuda", False, 20, False, []),
        ("cuda", False, 11, True, ["transformer_f1"]),
        ("cuda", False, 10, True, []),
        ("mps", False, 44, False, ["text_encoder", "transformer_f1"]),
        ("mps", False, 40, False, []),
        ("cpu", True, 90, False, ["text_encoder", "transformer_f1"]),  # float32
        ("cpu", True, 80, False, []),
    ],
)
def test_what_fits_is_loaded_ahead(monkeypatch, components, device, resident, free, fp8, large):
    as_on(monkeypatch, components, device, resident=resident, fp8=fp8)
    chosen, note = choose(components, "f1", with_free(free))
    assert sorted(part.name for part in chosen) == sorted(SMALL + large)
    assert bool(note) is (not large)
    assert not note or "The larger models are loaded with the first video" in note


def test_where_nothing_fits_nothing_is_loaded(monkeypatch, components):
    as_on(monkeypatch, components, "cuda", resident=False)
    chosen, note = choose(components, "f1", with_free(1))
    assert (chosen, bool(note)) == ([], True)


def test_nothing_is_downloaded_ahead(tmp_path):
    chosen, note = choose(Components(LocalFolder(tmp_path), "cpu"), "f1")
    assert (chosen, note) == ([], "The models are downloaded and loaded with the first video.")


def resume():
    pass


def test_everything_of_the_tiny_model_is_there_afterwards(components):
    preload, seen = Preload(), []
    preload.run(components, "original", lambda: seen.append(preload.now))
    assert [moment.active for moment in seen] == [True] * 8
    assert [sum(part.fraction == 1 for part in moment.parts) for moment in seen] == [0, 1, 1, 2, 2, 3, 4, 4]
    assert [part.fraction for part in preload.now.parts] == [1.0] * 5
    assert (preload.now.active, preload.now.error, preload.now.note) == (False, "", "")
    loaded = dict(components._loaded)
    components.transformer("original")
    with components.text(), components.vision(), components.vae():
        assert components._loaded == loaded


def test_the_bytes_of_a_large_part_are_told():
    preload, moments = Preload(), []

    def tell(*numbers):
        preload.tell(*numbers)
        moments.append(preload.now)

    preload.run(Components(LocalFolder(TINY_FOLDER), "cpu", progress=LoadingProgress(loading=tell)), "f1", resume)
    fractions = [moment.parts[-1].fraction for moment in moments if "transformer" in moment.parts[-1].text]
    assert len(fractions) > 2
    assert fractions == sorted(fractions)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModelFilesError("x is missing."), "x is missing."),
        (ZeroDivisionError("bug"), "Something unexpected went wrong"),
    ],
)
def test_an_error_is_a_sentence_and_frees_what_was_loaded(caplog, error, sentence):
    class Failing(Components):
        def load(self, part):
            if part.is_transformer:
                assert self._loaded
                raise error
            super().load(part)

    components, preload = Failing(LocalFolder(TINY_FOLDER), "cpu"), Preload()
    preload.run(components, "f1", resume)
    assert sentence in preload.now.error
    assert not preload.now.active
    assert not components._loaded
    assert "Loading ahead failed" in caplog.text


def test_stopping_is_no_error(components):
    def stop():
        raise CancelledError("stopping")

    preload = Preload()
    preload.run(components, "f1", stop)
    assert (preload.now.active, preload.now.error) == (False, "")


def test_a_job_that_is_started_early_waits_and_runs(components):
    preload, begin, ran = Preload(), threading.Event(), threading.Event()

    def run(job):
        assert not preload.now.active
        ran.set()
        yield from ()

    def prepare():
        assert begin.wait(60)
        preload.run(components, "f1", resume)

    manager = JobManager(run, hooks=WorkerHooks(prepare=prepare))
    try:
        job = manager.submit(JobInputs(components.source.defaults, {}))
        assert not ran.wait(0.1)
        assert manager.snapshot(job).state == "queued"
        begin.set()
        assert ran.wait(60)
    finally:
        begin.set()
        assert manager.close(60)
    assert len(preload.now.parts) == 5


# the card


LLAMA = PartLoading("the Llama text encoder", "Loading the Llama text encoder", 3 * GB, 15 * GB)


@pytest.mark.parametrize(
    ("now", "words", "bars"),
    [
        (Loading(), [], 0),
        (Loading(False, (LLAMA,)), [], 0),
        (
            Loading(True, (LLAMA, PartLoading("the VAE"))),
            ["being loaded", "3.0 of 15.0 GB", "To be loaded: the VAE", "20"],
            2,
        ),
        (Loading(True, (PartLoading("a", "Loading a", 1_000_000, 24_000_000),)), ["Loading a: 1.0 of 24.0 MB"], 1),
        (Loading(True, (PartLoading("a", "a is loaded", 1, 1),), note="Later: <b>"), ["a is loaded", "&lt;b&gt;"], 1),
        (Loading(False, note="The rest comes later."), ["The rest comes later."], 0),
        (Loading(False, error="<x> is missing."), ["could not be loaded ahead", "&lt;x&gt; is missing."], 0),
    ],
)
def test_the_card_shows_it(now, words, bars):
    html = card(now)
    assert all(word in html for word in words)
    assert html.count('role="progressbar"') == bars
    assert bool(html) is bool(words)


def test_the_first_job_takes_over():
    preload = Preload()
    preload.now = Loading(note="Later.", error="Bad.")
    preload.over()
    assert card(preload.now) == ""
