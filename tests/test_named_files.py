"""ComfyUI's folder and files that a framepack.json names: what is recognised, lacking, or bad, and what is told."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from diffusers_helper.commands import cli
from diffusers_helper.core.errors import ModelFilesError, SettingsError
from diffusers_helper.model_files import HubSource, LocalFolder, parts, parts_for, resolve_models, transformer_part
from diffusers_helper.model_files.checksums import find_changed
from diffusers_helper.model_files.comfyui import find_parts
from diffusers_helper.model_files.contents import described
from diffusers_helper.model_files.copying import copy_model
from diffusers_helper.model_files.hub import HuggingFaceHub
from diffusers_helper.model_files.named_files import NamedFiles
from diffusers_helper.model_files.parts import PUBLISHED
from diffusers_helper.model_files.settings_file import read_settings
from tests.fake_hub import fake_hub
from tests.gguf_writing import random_blocks
from tests.layouts import COMFYUI, comfyui, plain, scaled, weights_of, write_config, write_gguf_file, write_single
from tests.test_model_hub import tiny_repositories
from tests.tiny import SHIPPED, TINY_FOLDER

F1, ORIGINAL = transformer_part("f1"), transformer_part("original")
pytestmark = pytest.mark.usefixtures("kept_environment")


@pytest.fixture
def models(tmp_path):
    return comfyui(tmp_path / "models", TINY_FOLDER)


def opened(models, rest=None):
    return NamedFiles(
        models, read_settings(models), find_parts(models), rest or HubSource(HuggingFaceHub(models / "no"))
    )


def file_of(models, part):
    return models / COMFYUI[part][0]


def told(models, part=F1):
    with pytest.raises(ModelFilesError) as caught:
        opened(models).folder(part)
    return str(caught.value)


# what is recognised


def test_files_are_recognised_by_their_tensors_wherever_they_lie_below_their_folder(models):
    for part in (parts.VAE, parts.TEXT_ENCODER, F1):
        file = file_of(models, part)
        (file.parent / "deeper").mkdir()
        for one in (file, file.with_suffix(".config.json")):
            one.rename(one.parent / "deeper" / f"f1-x{one.name[one.name.index('.') :]}")
    found = opened(models).places
    assert found["vae"] == models / "vae/deeper/f1-x.safetensors"
    assert found["transformer_f1"] == models / "diffusion_models/deeper/f1-x.safetensors"
    opened(models).check(["f1", "original"])


def test_the_older_names_of_folders_are_known(models):
    (models / "diffusion_models").rename(models / "unet")
    (models / "text_encoders").rename(models / "clip")
    opened(models).check(["f1", "original"])


def test_other_models_among_them_are_passed_over(models):
    other = {"double_blocks.0.img_attn.qkv.weight": torch.ones(4, 4)}
    save_file(other, models / "diffusion_models" / "flux.safetensors")
    wider = {
        "model.embed_tokens.weight": torch.ones(9, 96),
        "text_model.embeddings.token_embedding.weight": torch.ones(7, 64),
    }
    save_file(wider, models / "text_encoders" / "another-llm.safetensors")
    (models / "diffusion_models" / "cut.safetensors").write_bytes(b"123")
    source = opened(models)
    source.check(["f1", "original"])
    assert {name: len(files) for name, files in source._found.candidates.items()} == dict.fromkeys(
        (part.name for part in COMFYUI), 1
    )


def test_of_several_files_the_nearest_to_the_published_is_taken_and_the_others_are_told(models, capsys):
    stored, _ = plain(weights_of(F1, TINY_FOLDER), torch.float8_e4m3fn)
    write_single(models / "diffusion_models" / "a-f1-fp8.safetensors", F1, stored, TINY_FOLDER)
    source = opened(models)
    assert source.places[F1.name] == file_of(models, F1)
    assert source.chosen(F1).endswith("these fit, too: diffusion_models/a-f1-fp8.safetensors.")
    assert source.chosen(ORIGINAL) == ""
    settings = json.loads((models / "framepack.json").read_text())
    settings["parts"][F1.name] = "diffusion_models/a-f1-fp8.safetensors"
    (models / "framepack.json").write_text(json.dumps(settings))
    assert opened(models).folder(F1).name == "a-f1-fp8.safetensors"
    assert opened(models).chosen(F1) == ""


@pytest.mark.slow
def test_the_built_in_configurations_are_those_of_the_published_sizes():
    """As the libraries and this program's class have them; files of weights come without one."""
    from diffusers import AutoencoderKLHunyuanVideo

    from benchmarks.model_folder import Sizes
    from diffusers_helper.loading.building import _empty

    for part in parts_for(["f1"]):
        if part.weights:
            model = _empty(part, part.config_file(PUBLISHED / "transformer.json"))
            count = sum(weight.numel() for weight in model.parameters())
            assert 0.97 < 2 * count / part.size < 1.03, part.name
    vae = json.loads((PUBLISHED / "vae.json").read_text())
    default = AutoencoderKLHunyuanVideo().config
    assert all(list(default[key]) == value if isinstance(value, list) else default[key] == value
               for key, value in vae.items() if key != "_class_name")  # fmt: skip
    llama = json.loads((PUBLISHED / "text_encoder.json").read_text())
    assert llama | Sizes().llama == llama


# what is lacking


def test_only_the_tokenizers_are_fetched(models, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (models / "framepack.json").unlink()
    with fake_hub(tiny_repositories()) as hub:
        source = opened(models, HubSource(HuggingFaceHub(tmp_path / "hub", hub.url)))
        source.check(["f1"])
        assert hub.downloads == []
        for part in parts_for(["f1"]):
            assert source.folder(part).exists()
        names = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
        assert {path.rpartition("/")[2] for path in hub.downloads} == names
        file_of(models, parts.VAE).unlink()
        with pytest.raises(ModelFilesError, match="has no file of the VAE"):
            opened(models, HubSource(HuggingFaceHub(tmp_path / "hub", hub.url))).check(["f1"])


def test_without_a_network_a_sentence_says_which_small_files_are_lacking(models):
    (models / "framepack.json").unlink()
    for action in (
        lambda source: source.check(["f1"], offline=True),
        lambda source: source.folder(parts.TOKENIZER, offline=True),
    ):
        with pytest.raises(ModelFilesError) as caught:
            action(opened(models))
        for words in ("do not hold the Llama tokenizer", "which are small (", "hf download hunyuanvideo-community"):
            assert words in str(caught.value)
    assert opened(models).folder(parts.FEATURE_EXTRACTOR, offline=True) == PUBLISHED / "feature_extractor"


def test_a_part_that_is_in_the_cache_is_taken_from_there(models):
    file_of(models, parts.VAE).unlink()
    source = opened(models, LocalFolder(TINY_FOLDER))
    source.check(["f1"])
    assert source.folder(parts.VAE) == TINY_FOLDER / parts.VAE.repository / "vae"


# bad files


def cut(models):
    file = file_of(models, F1)
    file.write_bytes(file.read_bytes()[:-10])
    return "has no file of the FramePack F1 transformer", "is cut short: it has", "Put one into"


def name_nothing(models):
    name(models, "nowhere.safetensors")
    return "nowhere.safetensors", "is missing", "Name another file"


def name(models, file, part=F1):
    settings = json.loads((models / "framepack.json").read_text())
    settings["parts"][part.name] = file
    (models / "framepack.json").write_text(json.dumps(settings))


def named_file(tensors, *words, part=F1, config=True, ending=".safetensors"):
    def damage(models):
        file = models / f"mine{ending}"
        save_file(tensors, file)
        if config:
            write_config(file, part, TINY_FOLDER)
        name(models, file.name, part)
        return (file.name, *words)

    return damage


def f1_with(**more):
    return lambda: weights_of(F1, TINY_FOLDER) | more


def gguf_with(kind, names="{}"):
    def damage(models):
        weights = {names.format(name): weight for name, weight in weights_of(F1, TINY_FOLDER).items()}
        write_gguf_file(models / "mine.gguf", F1, weights, TINY_FOLDER, kind)
        name(models, "mine.gguf")
        return "mine.gguf", "has no weight clean_x_embedder.proj.bias"

    return damage


def another_type(models):
    import gguf

    writer = gguf.GGUFWriter(models / "mine.gguf", "hyvid")
    blocks = random_blocks("Q2_K", 96).reshape(96, -1)
    writer.add_tensor("clean_x_embedder.proj.bias", blocks, raw_dtype=gguf.GGMLQuantizationType.Q2_K)
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    write_config(models / "mine.gguf", F1, TINY_FOLDER)
    name(models, "mine.gguf")
    return "mine.gguf", "holds clean_x_embedder.proj.bias as Q2_K, which is not read"


def garbage(models):
    (models / "mine.gguf").write_bytes(b"GGUF" + bytes(100))
    write_config(models / "mine.gguf", F1, TINY_FOLDER)
    name(models, "mine.gguf")
    return "mine.gguf", "is damaged or cut short, or no GGUF file"


def pickle(models):
    (models / "mine.pt").write_bytes(b"\x80\x04.")
    write_config(models / "mine.pt", F1, TINY_FOLDER)
    name(models, "mine.pt")
    return "mine.pt", "is a pickle file"


def without_config(models):
    file = file_of(models, F1)
    file.with_suffix(".config.json").unlink()
    name(models, str(file))
    return file.name, "does not fit its transformer.json", "its last size should be 3072"


def bad_config(models):
    file = file_of(models, F1)
    file.with_suffix(".config.json").write_text("{")
    name(models, str(file))
    return file.stem, ".config.json", "is not complete JSON"


LORA = {"transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 4)}
FIRST_NAMES = {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.ones(4, 4)}
NVFP4 = {"x.weight": torch.ones(4, 4, dtype=torch.uint8), "x.weight_scale_2": torch.ones(())}
BAD = {
    "cut short": cut,
    "not there": name_nothing,
    "a LoRA": named_file(LORA, "changes to a model (LoRA)"),
    "the first names": named_file(FIRST_NAMES, "HunyuanVideo with its first names of weights"),
    "another kind of scale": named_file(NVFP4, "a scale of quantised weights of another kind"),
    "another model": named_file({"a.weight": torch.ones(2)}, "it belongs to another model"),
    "GGUF with other names": gguf_with("Q8_0", "x{}x"),
    "GGUF of another type": another_type,
    "no GGUF": garbage,
    "a pickle": pickle,
    "another size": without_config,
    "no config": bad_config,
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence_and_what_to_do(models, case):
    words = BAD[case](models)
    text = told(models)
    for one in words:
        assert one in text, text
    assert "framepack.json" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"parts": {"transformer": "x"}}, "there is no part transformer. Parts are: text_encoder, "),
        ({"parts": ["x"]}, "cannot be used"),
        ({"parts": {"vae": 3}}, "cannot be used"),
    ],
)
def test_a_framepack_json_that_makes_no_sense(models, content, words):
    (models / "framepack.json").write_text(json.dumps(content))
    with pytest.raises(ModelFilesError) as caught:
        resolve_models(str(models), accelerator=False)
    assert words in str(caught.value)


def test_a_tokenizer_is_a_folder(models):
    name(models, str(file_of(models, F1)), parts.TOKENIZER)
    assert "is a file, where a folder is needed" in told(models, parts.TOKENIZER)


def test_a_single_file_alone_is_no_model(models):
    with pytest.raises(SettingsError, match="a single file, as ComfyUI has them, and a model has several parts"):
        resolve_models(str(file_of(models, F1)), accelerator=False)
    assert isinstance(resolve_models(str(models / "framepack.json"), accelerator=False), NamedFiles)


# the command line


def test_the_list_says_what_each_source_is(models, capsys):
    stored, _ = scaled(weights_of(parts.TEXT_ENCODER, TINY_FOLDER))
    write_single(file_of(models, parts.TEXT_ENCODER), parts.TEXT_ENCODER, stored, TINY_FOLDER, "model.")
    write_gguf_file(models / "mine.gguf", ORIGINAL, weights_of(ORIGINAL, SHIPPED), SHIPPED, "Q4_K")
    name(models, "mine.gguf", ORIGINAL)
    rounded = {n: w.bfloat16() for n, w in load_file(file_of(models, parts.VAE)).items()}
    save_file(rounded, file_of(models, parts.VAE))
    assert cli.main(["models", "list", "--models", str(models)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for part, words in {
        parts.TEXT_ENCODER: ("text_encoders/llava_llama3.safetensors", "fp8 (F8_E4M3, scaled)"),
        parts.TEXT_ENCODER_2: ("exact (F16)",),
        parts.VAE: ("vae/hunyuan_video_vae.safetensors", "rounded (BF16)"),
        F1: ("diffusion_models/FramePack_F1_I2V_HY.safetensors", "exact (BF16)", "here"),
        ORIGINAL: ("mine.gguf", "GGUF Q4_K", "here"),
    }.items():
        assert all(one in lines[part.name] for one in words), lines[part.name]
    assert described(parts.TOKENIZER, TINY_FOLDER) == ""


def test_a_copy_names_the_files_again(models, tmp_path):
    target, source = tmp_path / "copy", opened(models)
    assert source.preview_decoder is None
    shutil.copyfile(SHIPPED / "preview_decoder.safetensors", models / "preview_decoder.safetensors")
    (models / "loras/of another model.safetensors").write_bytes(b"{}")
    copy_model(source, parts_for(["f1"]), target)
    shutil.rmtree(models)
    copied = resolve_models(str(target), accelerator=False)
    assert copied.preview_decoder == target / "preview_decoder.safetensors"
    assert not (target / "loras").exists()
    copied.check(["f1"])
    for part in parts_for(["f1"]):
        place = copied.folder(part)
        assert place.is_relative_to(target) or part is parts.FEATURE_EXTRACTOR
        problems, compared = find_changed(part, place, copied.sums(part))
        assert (problems, compared) == ([], len(list(part.files_in(place))))
