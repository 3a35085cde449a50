"""The measurements run anywhere at tiny size and end in one line of JSON."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks import (
    cards,
    common,
    decode,
    gguf,
    group_timeline,
    group_times,
    loading,
    long_video,
    lora,
    memory,
    sensitivity,
    several_gpus,
    stagger,
    step,
    timeline,
)
from benchmarks.model_folder import Sizes, write_folder
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(common.torch.cuda, "is_available", lambda: False)


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_step(capsys):
    step.main(["--tiny", "--repeat", "1"])
    line = last_line(capsys)
    assert line["benchmark"] == "step"
    assert line["tokens"] > 100
    for variant in ("product, forward", "product, prepared"):
        assert line["results"][variant]["seconds"] > 0
        assert line["results"][variant]["relative_error"] < 1e-5
    found = line["results"]["error to float32, few blocks"]
    assert 0 < found["fused"] < 1.2 * found["diffusers"]


def test_decode(capsys):
    decode.main(["--tiny", "--repeat", "1", "--frames", "2"])
    line = last_line(capsys)
    for variant in ("product", "product, short of memory"):
        assert line["results"][variant]["relative_error"] < 1e-5
    assert line["results"]["diffusers, tiled"]["relative_error"] > 0.01


@pytest.mark.slow
def test_lora(capsys):
    lora.main(["--tiny", "--steps", "1", "--folder", str(TINY)])
    found = last_line(capsys)["results"]
    for files in ("one file", "three files"):
        assert found[f"resident: {files}, merged"]["same_bits_as_at_use"]
        assert found[f"resident: {files}"]["bits"] == found[f"within 6 GiB: {files}"]["bits"]
    assert found["resident: no file"]["bits"] == found["within 6 GiB: no file"]["bits"]
    assert found["resident: three files"]["planned_gib"] > found["resident: one file"]["planned_gib"] > 0


@pytest.mark.slow
def test_gguf(capsys, tmp_path):
    gguf.main(["--tiny", "--steps", "1", "--folder", str(tmp_path), "--kinds", "bfloat16", "Q4_K"])
    exact, small = last_line(capsys)["results"].values()
    assert (exact["form"], small["form"]) == ("exact", "GGUF Q4_K")
    assert exact["finite"]
    assert small["finite"]
    assert 0 < small["sent_gb_per_step"] < 0.2 * exact["sent_gb_per_step"]  # which is float32 here
    assert small["weights_gib"] < exact["weights_gib"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_long_videos_sections_take_the_same_work(capsys):
    long_video.main(["--quick", "--variant", "original", "--seconds", "4.8"])
    third, fourth = last_line(capsys)["sections"][2:4]
    for name in ("files", "calls"):
        assert third[name] == fourth[name] > 0
    assert fourth["steps"] - third["steps"] == 4  # the frames of the start latent, which joins the last section


@pytest.mark.slow
def test_sensitivity(capsys):
    sensitivity.main(["--tiny", "--blocks", "1", "1", "--size", "64", "48"])
    found = last_line(capsys)["results"]
    exact, everything = found.pop("exact")["exact error"], found["all of the blocks"]
    assert exact < 1e-5 < everything["int8 error"] < everything["fp8 error"]
    assert {"proj_out", "transformer_blocks.*.attn.to_q", "single_transformer_blocks.*.proj_out"} < found.keys()
    assert all(exact < error < 0.2 for kind in found.values() for error in kind.values())


@pytest.mark.slow
def test_stagger(capsys):
    given = ["--clips", "pan left", "--variants", "f1", "--seconds", "2.4", "--steps", "3", "--lags", "3", "1"]
    stagger.main([*given, "--device", "cpu"])
    rows = last_line(capsys)["rows"]
    assert [(row["m"], row["takes"], row["psnr"] == 99) for row in rows] == [
        (3, 1, True),
        (3, 1, True),
        (1, 0.667, False),
    ]
    assert rows[2]["psnr"] > rows[2]["worst"] > 10


@pytest.mark.slow
def test_several_gpus(capfd):
    several_gpus.main(["--tiny", "--gpus", "2", "--repeat", "1", "--steps", "2", "--sections", "2"])
    found = json.loads(capfd.readouterr().out.splitlines()[-1])["results"]
    shared = found["step, Ulysses, nccl"]
    assert shared["relative_error"] < 1e-5
    assert (shared["same_again"], shared["same_everywhere"]) == (True, True)
    assert found["sections in turns, m = 2 of 2"]["same_bits"]
    assert found["sections in turns, m = 1 of 2"]["by_formula"] == pytest.approx(4 / 3)
    assert found["decode, shared"]["same_bits"]
    failed = {name for name, numbers in found.items() if "failed" in numbers}
    assert failed == {"step, Ulysses, copies", "step, Ulysses, copies, recorded"}  # between GPUs' own memories


def test_what_several_gpus_do_is_drawn(tmp_path):
    names = ("flash_fwd_kernel", "Memcpy PtoP (Device -> Device)", "barrier_kernel", "nvjet_tst_256x128", "_modulate")
    assert [group_timeline.kind_of(name) for name in names] == [*group_timeline.KINDS]
    spans = [(kind, block, block + 0.5) for block in range(83) for kind in group_timeline.KINDS]
    assert group_timeline.blocks_of(spans) == (78, 82)
    for gpu in range(2):
        (tmp_path / f"step-{gpu}.json").write_text(json.dumps(spans))
    video = {"seconds": 4.0, "gpus": 2, "shared": False, "steps": 2, "begins": [0, 1], "ticks": [1, 2, 3], "done": [4]}
    assert list(group_timeline.sampling(video)) == [(0, 0, 0, 2), (1, 1, 1, 3)]
    videos = {"in turns": video, "Ulysses": video | {"shared": True}}
    (tmp_path / "videos.json").write_text(json.dumps(videos))
    group_timeline.main([str(tmp_path), "--output", str(tmp_path)])
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["several-gpus-step.png", "several-gpus-videos.png"]


@pytest.mark.slow
def test_timeline(capsys):
    timeline.main(["--tiny", "--sections", "2", "--steps", "2"])
    line = last_line(capsys)
    assert line["same_bits"]
    for mode in line["results"].values():
        (began, sampled), decoding = mode["sampling"]["0"], mode["decoding"]["0"]
        assert began < sampled <= decoding[0] < decoding[1] < mode["saved"]["0"] < mode["decoding"]["1"][0]
        assert mode["seconds"] == mode["saved"]["1"]
    assert line["results"]["in turn"]["waited_between_sections"] > 0


def test_a_variant_that_fails_is_reported_and_the_rest_goes_on(capsys):
    def broken():
        raise RuntimeError("no kernel image")

    bench = common.Bench("step", 1)
    assert bench.measure("broken", broken) is None
    bench.report()
    assert last_line(capsys)["results"] == {"broken": {"failed": "RuntimeError: no kernel image"}}


@pytest.mark.slow
def test_loading(capsys, tmp_path):
    loading.main(["--folder", str(tmp_path), "--tiny", "--ways", "buffers"])
    line = last_line(capsys)
    assert line["gigabytes"] == pytest.approx(0.095, rel=0.1)
    assert line["results"]["buffers"]["seconds"] > 0
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


SMALL = Sizes(
    transformer=loading.TINY,
    llama={"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": 4000, "max_position_embeddings": 8192},
    clip={"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2},
    siglip={"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "image_size": 384, "patch_size": 14},
    vae=decode.TINY,
)  # fmt: skip


@pytest.mark.slow
def test_memory(capsys, tmp_path):
    write_folder(tmp_path / "models", "f1", SMALL)
    ways = ["resident", "within 6 GiB", "8 bits, resident", "8 bits, within 4 GiB"]
    given = ["--folder", f"{tmp_path}/models", "--sections", "1", "--steps", "2", "--output", f"{tmp_path}/so-far"]
    memory.main([*given, "--ways", *ways])
    line = last_line(capsys)
    results = line["results"]
    assert list(results) == ways
    assert json.loads((tmp_path / "so-far").read_text()) == results
    for name in ("within 6 GiB", "8 bits, within 4 GiB"):
        assert results[name]["other_bits"] == []
        assert results[name]["sent_gb_per_step"] == pytest.approx(sum(results[name]["swapped"]["sizes"]) / 1e9)
    bits, exact = results["8 bits, resident"]["bits"], results["resident"]["bits"]
    assert list(exact) == ["conditions", "start latent", "latents", "pixels"]
    assert [name for name in exact if bits[name] != exact[name]] == ["latents", "pixels"]
    assert results["resident"]["sent_gb_per_step"] == 0
    assert len(line["predicted"]) == sum(map(len, cards.BUSES.values()))


@pytest.mark.parametrize(
    ("rate", "places", "slower"),
    [(10.0, 2, 1.0), (1.0, 2, 1.0), (0.5, 2, 2.0), (0.1, 3, 10.0), (1e-9, 9, 1.0)],
)
def test_the_schedule_hides_copies_that_are_quicker_than_the_work(rate, places, slower):
    gigabytes = [10**9] * 8  # of one second's work each
    assert cards.prediction(gigabytes, 8.0, rate, places)["slower"] == pytest.approx(slower)


def test_uneven_blocks_wait_for_the_bus_only_where_it_is_behind():
    sizes = [2 * 10**9] * 4 + [10**9] * 8  # two seconds of copies, then one, beside 1.5 seconds of work
    assert 1.0 < cards.prediction(sizes, 18.0, 1.0)["slower"] < 8 / 6


def test_all_goes_on_when_one_fails_or_is_late(capsys, tmp_path):
    runs = {
        "files": (["-c", ""], 30),
        "broken": (["-c", "raise SystemExit(3)"], 30),
        "late": (["-c", "import time; time.sleep(60)"], 1),
        "fine": (["-c", "print('table'); print('{}')"], 30),
    }
    argv = ["--folder", "f", "--output", str(tmp_path), "--only", "files", "broken", "late", "fine"]
    everything.main(argv, lambda _args: runs)
    said = capsys.readouterr().out
    assert said == "files: done\nbroken: failed (3)\nlate: failed (-9)\nfine: done\n{}\n"
    assert (tmp_path / "fine.log").read_text() == "table\n{}\n"


def test_all_runs_what_exists(tmp_path):
    given = argparse.Namespace(folder=tmp_path, output=tmp_path, tiny=True)
    for arguments, seconds in everything.runs(given).values():
        assert arguments[0] == "-c" or find_spec(arguments[1])
        assert all(Path(name).exists() for name in arguments if name.startswith("tests/"))
        assert seconds <= 600


@pytest.mark.parametrize(
    ("way", "gpus", "measured"),
    [(group_times.by_ulysses, 1, 63.9 / 3), (group_times.by_ulysses, 4, 18.73 / 3), (group_times.by_ulysses, 2, 11.94)],
)
def test_what_is_foretold_of_several_gpus_is_near_what_was_measured(way, gpus, measured):
    """Sections of videos on H200, decodes included; docs/several-gpus.md."""
    assert way(0.815, gpus, group_times.NVLINK) == pytest.approx(measured, rel=0.05)


def test_what_is_foretold_of_staggered_sections_is_near_what_was_measured():
    """Three sections on four GPUs took 32.5 s: the first one whole, then two more."""
    link = group_times.NVLINK
    more = group_times.staggered(0.815, 4, link)
    first = 25 * 0.815 + group_times.decode_seconds(0.815, 4)
    assert first + 2 * more == pytest.approx(32.5, rel=0.05)


def test_the_table_of_several_gpus_is_the_documented_one():
    document = (Path(__file__).parents[1] / "docs" / "several-gpus.md").read_text("utf-8")
    assert group_times.table() in document
