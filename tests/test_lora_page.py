"""The panel "LoRA" in a real browser: choose, weigh, put trigger words into the prompt; and back from the video."""

import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect
from safetensors.numpy import save_file

from diffusers_helper.media.recipe import read_recipe
from tests.browsing import bring_back, fill, keeps, shows_idle, start, visit
from tests.fakes import LION, serve_page, wait_for
from tests.lora_files import write_lora
from tests.test_end_to_end import PATIENCE, finished, frames, program

pytestmark = pytest.mark.browser

TEXT = "#lora-text textarea"


@pytest.fixture
def folder(tmp_path):
    metadata = {"modelspec.trigger_phrase": "old film, grain", "ss_base_model_version": "framepack"}
    write_lora(tmp_path / "loras" / "film.safetensors", metadata=metadata)
    (tmp_path / "loras" / "film.png").write_bytes(LION.read_bytes())
    write_lora(tmp_path / "loras" / "style" / "ink.safetensors")
    (tmp_path / "loras" / "style" / "ink.json").write_text(json.dumps({"preferred weight": 0.65}))
    (tmp_path / "loras" / "bad.safetensors").touch()
    return tmp_path / "loras"


@pytest.fixture
def server(tmp_path, folder):
    with serve_page(tmp_path, loras=folder) as server:
        yield server


@pytest.fixture
def tab(browser, server):
    with visit(browser, server.url) as user:
        yield user.open()


def unfold(tab):
    tab.locator("#loras").get_by_role("button").first.click()
    expect(tab.locator(TEXT)).to_be_visible()


def choose(tab, name):
    tab.locator("#lora-choice input").fill(name)
    tab.get_by_role("option", name=name).click()
    expect(tab.locator(f'[data-lora*="{name}"]')).to_be_visible()


def test_files_are_chosen_weighed_and_reach_the_job(tab, server, folder):
    unfold(tab)
    fill(tab)
    choose(tab, "film")
    choose(tab, "ink")
    expect(tab.locator(TEXT)).to_have_value("film.safetensors=1; style/ink.safetensors=0.65")
    card = tab.locator("[data-lora]").first
    expect(card).to_contain_text("for framepack · rank 4")
    expect(card.locator("img")).to_be_visible()
    card.get_by_label("Weight of film.safetensors").first.fill("0.45")
    expect(card.locator("input[type=number]")).to_have_value("0.45")
    expect(tab.locator(TEXT)).to_have_value("film.safetensors=0.45; style/ink.safetensors=0.65")
    tab.locator("[data-lora]").last.locator("input[type=number]").fill("-3")
    expect(tab.locator(TEXT)).to_have_value("film.safetensors=0.45; style/ink.safetensors=-3")
    card.get_by_role("button", name="Put them into the prompt").click()
    card.get_by_role("button", name="Put them into the prompt").click()
    expect(tab.locator("#prompt textarea")).to_have_value("old film, grain, A lion roars.")
    start(tab)
    expect(tab.locator("#progress")).to_have_text("Done")
    request = server.run.jobs[-1].request
    assert [(lora.name, lora.weight) for lora in request.loras] == [
        ("film.safetensors", 0.45),
        ("style/ink.safetensors", -3),
    ]
    assert request.prompt == "old film, grain, A lion roars."


def test_what_was_chosen_is_there_after_a_reload_and_can_be_given_up(tab):
    unfold(tab)
    choose(tab, "film")
    choose(tab, "ink")
    tab.locator("[data-lora] input[type=range]").first.fill("0.3")
    keeps(tab, loras="film.safetensors=0.3; style/ink.safetensors=0.65")
    tab.reload()
    expect(tab.locator(TEXT)).to_have_value("film.safetensors=0.3; style/ink.safetensors=0.65")
    expect(tab.locator("[data-lora] input[type=number]").first).to_have_value("0.3")
    tab.locator("#lora-choice .token-remove").first.click()
    expect(tab.locator(TEXT)).to_have_value("style/ink.safetensors=0.65")
    expect(tab.locator("[data-lora]")).to_have_count(1)


def test_weights_over_time_are_typed_and_a_wrong_text_is_told(tab, server):
    unfold(tab)
    fill(tab)
    tab.locator(TEXT).fill("film=[0s-1s: 0.2] [1s-: 1]")
    tab.locator("#prompt textarea").click()
    expect(tab.locator("[data-lora]")).to_contain_text("Weight over time: [0s: 0.2] [1s: 1]")
    expect(tab.locator("#lora-choice .token")).to_contain_text("film.safetensors")
    choose(tab, "ink")
    expect(tab.locator(TEXT)).to_have_value("film=[0s: 0.2] [1s: 1]; style/ink.safetensors=0.65")
    tab.locator(TEXT).fill("film=heavy")
    tab.locator("#prompt textarea").click()
    expect(tab.locator("#lora-cards")).to_contain_text("A LoRA's weight is a number such as 0.8, not heavy.")
    start(tab)
    expect(tab.locator("#message [role=alert]")).to_contain_text("not heavy")
    tab.locator(TEXT).fill("film=0.5")
    expect(tab.locator("#message")).to_have_text("")
    shows_idle(tab)
    assert server.run.jobs == []


def test_a_new_file_is_in_the_list_and_a_bad_one_is_told_in_its_card(tab, server, folder):
    unfold(tab)
    fill(tab)
    write_lora(folder / "new.safetensors")
    choose(tab, "new")
    choose(tab, "bad")
    expect(tab.locator("[data-lora]").last).to_contain_text("LoRA bad.safetensors is cut short after 0 bytes.")
    start(tab)
    expect(tab.locator("#message [role=alert]")).to_contain_text("LoRA bad.safetensors is cut short")
    assert server.run.jobs == []


def test_without_files_the_panel_says_where_to_put_them(browser, tmp_path):
    with serve_page(tmp_path, loras=tmp_path / "loras") as server, visit(browser, server.url) as user:
        tab = user.open()
        unfold(tab)
        expect(tab.locator("#lora-cards")).to_contain_text("Put them (.safetensors) into this folder: loras")


def write_real(path, seed):
    """A LoRA for the tiny model, of random factors that change a picture."""
    random, factors = np.random.default_rng(seed), {}
    for module in ("attn_to_q", "attn_to_out_0", "ff_net_2"):
        shapes = {"lora_down": (4, 768 if module == "ff_net_2" else 256), "lora_up": (256, 4)}
        for name, shape in shapes.items():
            factors[f"lora_unet_transformer_blocks_0_{module}.{name}.weight"] = 0.1 * random.standard_normal(
                shape, dtype=np.float32
            )
    path.parent.mkdir(exist_ok=True)
    save_file(factors, path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_video_with_a_lora_brings_it_back_and_another_file_is_told(browser, tmp_path):
    folder = tmp_path / "loras"
    write_real(folder / "wild.safetensors", seed=1)
    with program("demo_gradio.py", tmp_path, "--loras", folder) as url:
        with visit(browser, url) as user:
            tab = user.open()
            tab.locator("#seconds input[type=number]").fill("1")
            fill(tab, prompt="The camera pans left.")
            unfold(tab)
            choose(tab, "wild")
            tab.locator("[data-lora] input[type=range]").fill("0.8")
            expect(tab.locator(TEXT)).to_have_value("wild.safetensors=0.8")
            start(tab)
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
            expect(tab.locator("#details")).to_contain_text("wild.safetensors")
        [video] = finished(tmp_path)
        [lora] = read_recipe(video).settings["loras"]
        assert (lora.name, lora.weight) == ("wild.safetensors", 0.8)
        assert re.fullmatch("[0-9a-f]{64}", lora.sha256)

        with visit(browser, url) as user:  # somebody else, who has the video alone
            tab = user.open()
            bring_back(tab, video)
            expect(tab.locator("#dropped-told")).to_have_text("The settings are restored.")
            expect(tab.locator("#lora-choice .token")).to_contain_text("wild.safetensors")
            expect(tab.locator("[data-lora] input[type=number]")).to_have_value("0.8")
            start(tab)
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
            [again] = finished(tmp_path) - {video}
            assert frames(again) == frames(video), "the same file at the same weight"

            tab.locator("[data-lora] input[type=range]").fill("0")
            expect(tab.locator(TEXT)).to_have_value("wild.safetensors=0")
            start(tab)
            wait_for(lambda: tab.wait_for_timeout(100) or len(finished(tmp_path)) == 3, PATIENCE / 1000)
            [plain] = finished(tmp_path) - {video, again}
            assert frames(plain) != frames(video)

            write_real(folder / "wild.safetensors", seed=2)
            bring_back(tab, video)
            told = "LoRA wild.safetensors is another file here than the one this was made with."
            expect(tab.locator("#dropped-told")).to_contain_text(told)
