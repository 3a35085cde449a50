"""Components: parts of the tiny model come as modules when they are asked for, and go when they are done with."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusers_helper.core.errors import CancelledError, ModelFilesError, OutOfMemoryError, SettingsError
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.encoders.hunyuan import encode_prompt_conds, vae_decode
from diffusers_helper.loading.components import Components, ComputeOptions, LoadingProgress, LocalFolder, resolve_models
from diffusers_helper.loading.placement import RAM_FOR_WORK, Placement
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory import MemoryPolicy, cpu
from diffusers_helper.memory.budget import Work, weights_of
from diffusers_helper.memory.packing import block_layout
from diffusers_helper.memory.pinning import CudaPinningOn
from diffusers_helper.memory.ram import Ram
from diffusers_helper.model_files import parts
from diffusers_helper.models.attention import BACKENDS, AttentionBackend
from diffusers_helper.models.sdpa import sdpa
from tests.tiny import TINY_FOLDER

TRANSFORMER = VARIANTS["f1"].checkpoint
LITTLE_MEMORY = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=True)


class Asked(LocalFolder):
    """The tiny model, noting which parts were asked for."""

    def __init__(self) -> None:
        super().__init__(TINY_FOLDER, is_tiny=True)
        self.parts: list[str] = []

    def folder(self, part, **settings):
        self.parts.append(part.name)
        return super().folder(part, **settings)


@pytest.fixture
def source():
    return Asked()


@pytest.fixture
def components(source):
    return Components(source, "cpu")


def with_little_memory(components):
    components.residency.policy = LITTLE_MEMORY
    return components


def is_gone(reference):
    gc.collect()
    return reference() is None


@pytest.mark.slow
def test_importing_loads_no_library():
    code = (
        "import sys, diffusers_helper.loading.components\n"
        "print([name for name in ('transformers', 'diffusers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_stage_loads_its_own_parts_once(components, source):
    assert source.parts == []
    for _ in range(2):
        with components.text():
            pass
        assert source.parts == ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"]
    with components.vision():
        pass
    assert source.parts[4:] == ["image_encoder", "feature_extractor"]
    with components.vae():
        pass
    components.transformer("original")
    components.transformer("original")
    assert source.parts[6:] == ["vae", "transformer_original"]


def test_parts_are_what_they_should_be(components):
    with components.text() as text, components.vision() as vision, components.vae() as vae:
        models = [text.text_encoder, text.text_encoder_2, vision.image_encoder, vae, components.transformer("f1")]
        kinds = [*models, text.tokenizer, text.tokenizer_2, vision.feature_extractor]
        assert [type(part).__name__ for part in kinds] == [
            "LlamaModel",
            "CLIPTextModel",
            "SiglipVisionModel",
            "AutoencoderKLHunyuanVideo",
            "HunyuanVideoTransformer3DModelPacked",
            "TokenizersBackend",  # transformers 5 calls PreTrainedTokenizerFast so
            "CLIPTokenizer",
            "SiglipImageProcessorPil",
        ]
        assert text.device == torch.device("cpu")
    for model in models:
        assert not model.training
        assert {(p.dtype, p.requires_grad, p.device.type) for p in model.parameters()} == {
            (torch.float32, False, "cpu")
        }


def test_llama_tokenizer_keeps_its_own_words(components):
    with components.text() as text:
        ids = text.tokenizer("Hello,  world\n").input_ids
        assert text.tokenizer.decode(ids, skip_special_tokens=True) == "Hello,  world\n"


def test_files_become_the_weights(components):
    from safetensors.torch import load_file

    stored = load_file(next((TINY_FOLDER / TRANSFORMER).glob("*-00001-of-*.safetensors")))
    loaded = components.transformer("f1").state_dict()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in stored.items())


@pytest.mark.parametrize(
    ("device", "dtype", "expected"), [("cpu", torch.bfloat16, "bfloat16"), ("cpu", None, "float32")]
)
def test_dtype_on_a_cpu(source, device, dtype, expected):
    components = Components(source, device, ComputeOptions(dtype=dtype))
    expected = getattr(torch, expected)
    assert components.dtype == components.transformer("f1").dtype == expected
    with components.vae() as vae:
        assert vae.dtype == expected


def test_dtypes_on_an_accelerator(source):
    components = Components(source, "meta")
    components.residency.policy = MemoryPolicy(resident=True, preserved_gb=0, tile_vae=False)
    assert components.dtype == torch.bfloat16
    with components.vision() as vision:
        assert vision.image_encoder.dtype == torch.float16
        assert vision.image_encoder.device.type == "meta"


def test_defaults_are_those_of_the_model(components):
    assert components.source.defaults.resolution == 128


# little memory


@pytest.mark.slow
def test_text_encoders_are_given_up_after_use(components, source):
    with_little_memory(components)
    with components.text() as text:
        encoder = weakref.ref(text.text_encoder)
        tokenizer = text.tokenizer
    assert is_gone(encoder)  # although `text` is still here
    with components.text() as text:
        assert text.tokenizer is tokenizer
    assert source.parts.count("text_encoder") == 2


def test_the_image_encoder_is_given_up_after_use(components, source):
    with_little_memory(components)
    for _ in range(2):
        with components.vision() as vision:
            encoder = weakref.ref(vision.image_encoder)
        assert is_gone(encoder)
    assert source.parts.count("image_encoder") == 2
    assert source.parts.count("feature_extractor") == 1


def test_text_encoders_are_given_up_after_an_error(components):
    kept = []

    def fail():
        with components.text() as text:
            kept.append((text, weakref.ref(text.text_encoder)))
            raise ValueError("bad")

    with_little_memory(components)
    with pytest.raises(ValueError, match="bad"):
        fail()
    assert is_gone(kept[0][1])


@pytest.mark.slow
def test_numbers_do_not_depend_on_memory(source):
    results = []
    for components in (Components(source, "cpu"), with_little_memory(Components(source, "cpu"))):
        with components.text() as text:
            conds = encode_prompt_conds(
                "A dog", text.text_encoder, text.text_encoder_2, text.tokenizer, text.tokenizer_2, device=text.device
            )
        with components.vae() as vae:
            pixels = vae_decode(torch.ones(1, 16, 1, 4, 4), vae)
            tiled = vae.use_tiling, vae.use_slicing
        results.append((*conds, pixels))
    assert tiled == (True, True)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_vae_is_whole_with_much_memory(components):
    with components.vae() as vae:
        assert (vae.use_tiling, vae.use_slicing) == (False, False)


@pytest.mark.slow
def test_memory_is_shared_anew_for_each_job(source):
    free = 70.0
    components = Components(source, "meta")
    components.free_gb = lambda _device: free
    components.plan_memory(6.0)
    assert components.policy == MemoryPolicy(resident=True, preserved_gb=6.0, tile_vae=False)
    with components.vision() as vision:
        encoder = weakref.ref(vision.image_encoder)
    del vision
    components.plan_memory(3.5)
    assert components.policy == MemoryPolicy(resident=True, preserved_gb=3.5, tile_vae=False)
    assert not is_gone(encoder)
    free = 10.0  # another program came
    components.plan_memory(2.5)
    assert components.policy == MemoryPolicy(resident=False, preserved_gb=2.5, tile_vae=True)
    assert is_gone(encoder)
    with components.vae() as vae:
        autoencoder = weakref.ref(vae)
    del vae
    components.plan_memory(2)
    assert not is_gone(autoencoder)
    free = 70.0  # it went: what was loaded to travel cannot stay
    components.plan_memory(2)
    assert components.policy.resident
    assert is_gone(autoencoder)


def test_sampling_is_planned_from_what_is_free(components, caplog):
    transformer = components.transformer("f1")
    weights = weights_of(transformer)
    work = Work(128, 128)
    assert components.plan_sampling(transformer, work)[1] is None
    free = 1.0
    one_stays = free - (weights.beside + 3 * max(weights.blocks) + weights.blocks[-1]) / 2**30
    with_little_memory(components).residency.policy = replace(LITTLE_MEMORY, preserved_gb=one_stays)
    components.free_gb = lambda _device: free
    with components.vae() as vae:
        assert vae.use_tiling
    caplog.set_level("INFO")
    execution, told = components.plan_sampling(transformer, work)
    assert "1 of the model's 6 blocks stay" in told
    assert "1 of the model's 6 blocks stay" in caplog.text
    assert (components.policy.slots, components.policy.tile_vae, execution.mlp_chunk) == (3, True, None)
    free = 10
    assert "6 of the model's 6" in components.plan_sampling(transformer, work)[1]
    with components.vae() as vae:
        assert (vae.use_tiling, vae.use_slicing) == (False, False)
    free = 0.001
    execution, told = components.plan_sampling(transformer, work)
    assert "may need 0.6. If it stops, choose" in told
    assert (components.policy.resident_bytes, components.policy.tile_vae, execution.mlp_chunk) == (0, True, 4096)


# transformer


def test_only_one_variant_is_loaded(components):
    first = weakref.ref(components.transformer("original"))
    components.transformer("f1")
    assert is_gone(first)


def test_attention_is_chosen_before_weights_are_read(source):
    def refuse(*_told):
        raise CancelledError("read")

    for name in ("nonsense", "flash"):
        with pytest.raises(SettingsError, match="attention backend"):
            Components(source, "cpu", ComputeOptions(attention=name), LoadingProgress(loading=refuse)).transformer("f1")
    with pytest.raises(CancelledError, match="read"):
        Components(source, "cpu", ComputeOptions(attention="sdpa"), LoadingProgress(loading=refuse)).transformer("f1")


def test_attention_is_used(source, monkeypatch):
    marked = AttentionBackend("sdpa", lambda: lambda q, k, v: sdpa(q, k, v), "for this test")
    monkeypatch.setitem(BACKENDS, "sdpa", marked)
    components = Components(source, "cpu", ComputeOptions(attention="sdpa"))
    execution, _ = components.plan_sampling(components.transformer("f1"), Work(128, 128))
    assert execution.attention not in (None, sdpa)


# release


def test_release_gives_up_everything_and_all_can_be_loaded_again(components, source):
    with components.vae() as vae:
        references = [weakref.ref(vae), weakref.ref(components.transformer("f1"))]
    del vae
    components.release_all()
    assert all(map(is_gone, references))
    with components.vae():
        pass
    assert source.parts.count("vae") == 2


def test_release_after_a_failure_in_use(components):
    with_little_memory(components)
    running = components.vae()
    running.__enter__()  # a user that was never closed
    components.release_all()
    with components.vae() as vae:
        assert vae is not None


# what the files may be


def changed(tmp_path, part, change, fp8=None):
    """Components of the tiny model whose weight files of `part` hold what `change` makes of their tensors."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(TINY_FOLDER, tmp_path / "models")) / part.repository / part.folder
    for file in folder.glob("*.safetensors"):
        save_file(change(load_file(file)), file)
    return folder, Components(LocalFolder(tmp_path / "models"), "cpu", ComputeOptions(fp8=fp8))


def plain_eight_bits(tensors):
    return {name: w.to(torch.float8_e4m3fn) if is_matrix(name, w) else w for name, w in tensors.items()}


def scaled_eight_bits(tensors):
    """With one scale for each matrix, as ComfyUI has them."""
    stored = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)} if len(tensors) > 3 else {}
    for name, weight in tensors.items():
        stored[name] = weight
        if is_matrix(name, weight):
            scale = weight.float().abs().amax() / 448
            stored[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            stored[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    return stored


def is_matrix(name, weight):
    return weight.dim() == 2 and name.endswith(".weight") and ("blocks" in name or "layers" in name)


@pytest.mark.parametrize("fp8", [False, True])
def test_a_scaled_transformer_is_the_published_one_but_for_the_rounding(tmp_path, fp8):
    """Without its scales every weight is a hundred times too large; in 8 bits it is made of what the scales mean."""
    part = parts.transformer_part("f1")
    _, components = changed(tmp_path, part, scaled_eight_bits, tmp_path / "cache" if fp8 else None)
    exact = Components(LocalFolder(TINY_FOLDER), "cpu").transformer("f1")
    loaded = components.transformer("f1")
    for name, module in exact.named_modules():
        if isinstance(module, torch.nn.Linear):
            error = (loaded.get_submodule(name).weight - module.weight).norm() / module.weight.norm()
            assert error < 0.08, name


def test_a_scaled_text_encoder_reads_as_the_published_one(tmp_path):
    _, components = changed(tmp_path, parts.TEXT_ENCODER, scaled_eight_bits)
    with components.text() as text, Components(LocalFolder(TINY_FOLDER), "cpu").text() as published:
        for name, weight in published.text_encoder.state_dict().items():
            owner, _, leaf = name.rpartition(".")
            loaded = getattr(text.text_encoder.get_submodule(owner), leaf)
            assert (loaded - weight).norm() < 0.08 * weight.norm() + 1e-6


@pytest.mark.parametrize("part", [parts.TEXT_ENCODER_2, parts.VAE, parts.IMAGE_ENCODER], ids=lambda part: part.name)
@pytest.mark.parametrize("name", ["{layer}.weight_scale", "{layer}.unknown", "{top}.unknown.weight"])
def test_a_small_part_with_more_than_its_weights_is_refused(tmp_path, part, name):
    def change(tensors):
        layer = next(name for name in sorted(tensors) if name.endswith(".weight")).removesuffix(".weight")
        return tensors | {name.format(layer=layer, top=layer.partition(".")[0]): torch.ones(1)}

    _, components = changed(tmp_path, part, change)
    with pytest.raises(ModelFilesError, match=r"holds .*(weight_scale|unknown)"):
        components.load(part)


def test_fp8_files_are_told_and_need_half_the_ram(tmp_path):
    part = parts.transformer_part("f1")
    folder, components = changed(tmp_path, part, plain_eight_bits)
    published = Components(LocalFolder(TINY_FOLDER), "cpu")
    exact = TINY_FOLDER / part.repository
    assert part.bytes_in(folder) < 0.75 * part.bytes_in(exact)
    need, policy = components.placement.ram_need, components.policy
    loaded = components.transformer("f1")
    held = sum(weight.nbytes for weight in (*loaded.parameters(), *loaded.buffers()))
    assert 0.99 < need(part, folder, policy) / held <= 1
    assert need(part, folder, policy) < 0.6 * need(part, exact, policy)
    found = [one.environment.of_video("f1")["weights"] for one in (components, published)]
    assert found == ["fp8 files", "exact"]
    assert [note for note in components.notes_on(loaded) if "8-bit weights (fp8)" in note]
    assert not list(published.notes_on(published.transformer("f1")))


def without_begin(content):
    content["post_processor"] = None


def another_begin(content):
    content["post_processor"] = json.loads(json.dumps(content["post_processor"]).replace("1508", "39"))


@pytest.mark.parametrize("change", [without_begin, another_begin])
def test_a_tokenizer_that_does_not_begin_a_text_is_refused(tmp_path, change):
    """Nothing else would say it: the prompt is only read worse."""
    shutil.copytree(TINY_FOLDER, tmp_path / "models")
    file = tmp_path / "models" / parts.TOKENIZER.repository / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ModelFilesError, match=r"token that begins a text\. Replace it with the files of"):
        Components(LocalFolder(tmp_path / "models"), "cpu").load(parts.TOKENIZER)


# faults


def damaged(tmp_path, repository, **changes):
    """Components of the tiny model whose config.json of `repository` is changed."""
    shutil.copytree(TINY_FOLDER, tmp_path / "models")
    file = tmp_path / "models" / repository / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return Components(resolve_models(str(tmp_path / "models"), accelerator=False), "cpu")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_single_layers": 5}, "lack .* weights of the model, such as single_transformer_blocks.4"),
        ({"mlp_ratio": 2.0}, "could not be loaded as the FramePack F1 transformer: .*Replace it with the files of"),
        ({"rope_axes_dim": [2, 2, 2]}, "rope_axes_dim"),
    ],
)
def test_transformer_that_does_not_fit_its_config(tmp_path, changes, text):
    components = damaged(tmp_path, TRANSFORMER, **changes)
    with pytest.raises(ModelFilesError, match=text) as error:
        components.transformer("f1")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 5}, {"intermediate_size": 64}])
def test_text_encoder_that_does_not_fit_its_config(tmp_path, changes):
    components = damaged(tmp_path, "hunyuanvideo-community/HunyuanVideo/text_encoder", **changes)
    with pytest.raises(ModelFilesError, match="text_encoder"), components.text():
        raise AssertionError("not reached")


def test_check_looks_at_the_named_variants(tmp_path):
    components = damaged(tmp_path, TRANSFORMER, _class_name="FluxTransformer2DModel")
    components.source.check(["original"])
    with pytest.raises(ModelFilesError, match="describes FluxTransformer2DModel"):
        components.source.check(["f1"])


def test_shortage_of_memory_at_load_is_advice(source):
    def full(*_told):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="Raise the GPU memory to leave free"):
        Components(source, "cpu", progress=LoadingProgress(loading=full)).transformer("f1")


# RAM


def place_of(device, part, *, resident=False, available=40, swap=3):
    """Where a part would go, with so many GB free."""
    policy = replace(LITTLE_MEMORY, resident=resident)
    ram = Ram(available * 10**9, swap * 10**9)
    return Placement(torch.device(device), ComputeOptions(), lambda: ram).place(part, policy)


def test_large_parts_go_where_there_is_room():
    transformer, text = parts.transformer_part("f1"), parts.TEXT_ENCODER
    room = 40 * 10**9 - RAM_FOR_WORK
    assert place_of("cuda", transformer, resident=True) == Place(torch.device("cuda"))
    assert place_of("cuda", transformer) == Place(cpu, pin=True, ram=room, stream=True, as_stored=True)
    assert place_of("cuda", text) == Place(cpu, pin=True, ram=0, stream=True, as_stored=True)
    assert [place_of(f"cuda:{number}", transformer).pinning for number in range(2)] == [
        None,
        CudaPinningOn(torch.device("cuda:1")),
    ]
    assert place_of("cpu", transformer, resident=True) == Place(cpu, ram=43 * 10**9, as_stored=True)
    assert not place_of("mps", transformer).as_stored


def test_too_little_ram_is_told_before_anything_is_read(source):
    components = Components(source, "cpu", progress=LoadingProgress(loading=lambda *_: pytest.fail("read")))
    components.placement = Placement(components.device, ComputeOptions(), lambda: Ram(1000, 500))
    with pytest.raises(OutOfMemoryError, match=r"transformer takes 0\.0 GB of RAM, and 0\.0 GB are free"):
        components.transformer("f1")


def test_weights_that_stay_on_the_disk_are_told(components, monkeypatch):
    transformer = components.transformer("f1")
    assert list(components.notes_on(transformer)) == []
    layout = block_layout(transformer.transformer_blocks[0])
    transformer.transformer_blocks[0].weight_source = SimpleNamespace(layout=replace(layout, streamed_bytes=4 * 10**9))
    [note] = components.notes_on(transformer)
    assert "4.0 GB of the transformer's weights do not fit in RAM" in note


# a real accelerator


@pytest.mark.gpu
@pytest.mark.parametrize("little", [False, True])
def test_everything_runs_on_cuda_and_memory_returns_to_the_baseline(source, little):
    components = Components(source, "cuda")
    if little:
        with_little_memory(components)
    torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")  # what the library takes once and keeps
    before = torch.cuda.memory_allocated()
    with components.text() as text:
        states, pooled = encode_prompt_conds(
            "A dog", text.text_encoder, text.text_encoder_2, text.tokenizer, text.tokenizer_2, device=text.device
        )
        assert {states.device.type, pooled.device.type} == {"cuda"}
    del states, pooled, text
    transformer = components.transformer("f1")
    with components.residency.use(transformer, swap=True):
        assert transformer.x_embedder.proj.weight.device.type == "cuda"
    del transformer
    if not little:
        components.release_all()
    assert torch.cuda.memory_allocated() == before
