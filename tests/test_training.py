"""The training of the small family: known motions, captions, sections as the planners cut them, and one toy run."""

import random
import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from safetensors.torch import load_file

from diffusers_helper.core.planning import plan_video
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu, flux_sigmas
from training import evaluate, evaluate_directed, family, pool, stills, train_lora, train_transformer, train_vae
from training.captions import LABELS, caption, held_out_caption, is_held_out, labels
from training.checkpoint import load_weights, save_weights
from training.clips import render, thing_path
from training.graphs import GraphedStep, HalfCopy, set_rates
from training.latents import decode, normalise, posterior
from training.loop import Average, Budget, Run
from training.motions import ACTIONS, FULL_PROGRESS, PARTS, REST, Motion, Thing, camera_motion, draw_motion, progress
from training.muon import Muon, orthogonal
from training.patches import with_matrices
from training.pictures import PictureSource, load_photos
from training.quick_vae import QuickVae
from training.run import main
from training.sections import NOTHING, START_PICTURE, draw_pattern, patterns, segment_starts, stacked
from training.texts import TextEncoders, Tokenizers, save_tokenizers
from training.train_transformer import TrainModel, draw_sigmas, noise_augment

SMALL_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
SMALL_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "rope_axes_dim": (4, 6, 6),
    "num_layers": 1,
    "num_single_layers": 1,
}


def smooth_picture(side: int = 96) -> torch.Tensor:
    """Two soft blobs, off the middle, at twice the clip's size."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 2 * side)] * 2, indexing="ij")
    blob = torch.exp(-8 * ((rows - 0.15).square() + (columns + 0.1).square()))
    other = torch.exp(-20 * ((rows + 0.3).square() + (columns - 0.35).square()))
    return torch.stack([blob, other, 0.5 * blob])[None]


def centre_of(frames: torch.Tensor) -> torch.Tensor:
    """Centre of mass (x, y) of the first channel of frames (3, T, H, W), pixels: (T, 2)."""
    weight = frames[0]
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in weight.shape[1:])
    mass = weight.sum((1, 2))
    return torch.stack([(weight * columns).sum((1, 2)) / mass, (weight * rows[:, None]).sum((1, 2)) / mass], dim=1)


@pytest.mark.parametrize(
    ("name", "direction"),
    [("pan left", (1, 0)), ("pan right", (-1, 0)), ("pan up", (0, 1)), ("pan down", (0, -1))],
)
def test_content_moves_against_the_camera_at_the_stated_speed(name: str, direction: tuple[int, int]) -> None:
    frames = render(smooth_picture(128), [camera_motion(name)], torch.arange(0, 21, 5).float()[None])[0]
    moved = centre_of(frames)[-1] - centre_of(frames)[0]
    torch.testing.assert_close(moved, 20 * 0.6 * torch.tensor(direction).float(), atol=0.35, rtol=0)


def test_motions_rest_after_two_sections_and_only_sway_then() -> None:
    times = torch.arange(0, 400).float()[None]
    done = progress(times, [Motion(sway=(3.0, 120.0, 1.0))])[0]
    still = progress(times, [Motion()])[0]
    assert still[10] == 10
    assert torch.all(still[REST:] == FULL_PROGRESS)
    assert (done[REST:] - FULL_PROGRESS).abs().max() <= 3.0 + 1e-4
    assert (done - still)[:36].abs().max() < 1e-5
    assert progress(torch.tensor([[-5.0]]), [Motion()])[0] == 0


def test_frames_of_a_still_motion_are_the_picture() -> None:
    frames = render(smooth_picture(), [Motion()], torch.tensor([[0.0, 30, 200]]))
    torch.testing.assert_close(frames[0, :, 0], frames[0, :, 2])
    torch.testing.assert_close(
        frames[0, :, 0], torch.nn.functional.avg_pool2d(smooth_picture(), 2)[0], atol=1e-5, rtol=0
    )


def test_zoom_turn_and_light_change_what_they_say() -> None:
    picture, times = smooth_picture(), torch.tensor([[0.0, 72.0]])
    frames = {name: render(picture, [camera_motion(name)], times)[0] for name in PARTS}
    size = {name: (clip[0] > 0.5).float().sum((1, 2)) for name, clip in frames.items()}
    assert size["zoom in"][1] > 1.3 * size["zoom in"][0]
    assert size["zoom out"][1] < 0.8 * size["zoom out"][0]
    assert frames["brighter"][:, 1].mean() > 1.2 * frames["brighter"][:, 0].mean()
    assert frames["darker"][:, 1].mean() < 0.7 * frames["darker"][:, 0].mean()
    angle = [
        torch.atan2(*(centre_of(frames[f"turn {way}"].flip(0)[1:])[:, [1, 0]] - 47.5).T)
        for way in ("clockwise", "counter-clockwise")
    ]
    clockwise, counter = (torch.rad2deg(a[1] - a[0]) for a in angle)
    assert clockwise == pytest.approx(-counter, abs=0.5)
    assert 15 < clockwise < 22  # y points down, so a growing angle is clockwise


@pytest.mark.parametrize("action", ACTIONS)
def test_things_go_where_their_action_says(action: str) -> None:
    motion = Motion(thing=Thing("square", "red", action, 0.5, 0.5, 0.12))
    x, y, radius, angle = thing_path(motion, torch.tensor([0.0, FULL_PROGRESS]), 128, 128)
    change = {"x": x.diff(), "y": y.diff(), "radius": radius.diff(), "angle": angle.diff()}
    expected = {
        "left": "-x", "right": "+x", "up": "-y", "down": "+y", "bounce": "", "spin": "+angle", "grow": "+radius",
        "shrink": "-radius", "enter left": "+x", "enter right": "-x", "drop": "+y",
    }[action]  # fmt: skip
    for name, value in change.items():
        sign = 1 if f"+{name}" == expected else -1 if f"-{name}" == expected else 0
        assert torch.sign(value.round(decimals=3)) == sign, name
    frames = render(torch.zeros(1, 3, 256, 256), [motion], torch.tensor([[0.0, 40.0]]))
    assert (frames[0, 0, 0] > 0.5).any() == (action not in ("enter left", "enter right", "drop"))
    assert (frames[0, 0, 1] > 0.5).any()


def test_captions_say_the_motion_in_many_ways_and_keep_some_for_tests() -> None:
    rng = random.Random(3)
    motion = camera_motion("pan left", pace="slow")
    texts = {caption(motion, rng) for _ in range(400)}
    assert len(texts) > 250
    assert all("left" in text.lower() for text in texts)
    assert not any(re.search(r"(?<!from )\bright\b", text.lower()) for text in texts)
    assert not any(is_held_out(text) for text in texts if text)
    assert all(is_held_out(held_out_caption(motion, rng)) for _ in range(20))


def test_labels_tell_motions_apart() -> None:
    rng = random.Random(5)
    motions = [draw_motion(rng) for _ in range(300)]
    sizes = [len(classes) for classes in LABELS.values()]
    assert all(0 <= value < size for motion in motions for value, size in zip(labels(motion), sizes, strict=True))
    assert len({tuple(labels(camera_motion(name))) for name in PARTS}) == len(PARTS)
    assert len({motion.family for motion in motions}) > 25


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_patterns_read_the_latents_that_the_planner_means(variant: str) -> None:
    plan = plan_video(variant, 2)
    for section in plan.sections:
        begin = 9 * section.output_index + 1
        fitting = [
            p for p in patterns(variant, 0)[0] if p.target[0] == begin and p.target_times == section.latent_indices
        ]
        assert all(p.clean_times == section.indices(1) and p.clean[0] == START_PICTURE for p in fitting)
        histories = {(*p.clean[1:], *p.clean_2x, *p.clean_4x) for p in fitting}
        if variant == "f1":
            assert histories == {
                (9, 7, 8, *[NOTHING] * 9, START_PICTURE, 1, 2, 3, 4, 5, 6)
                if begin == 10
                else (START_PICTURE, *[NOTHING] * 18)
            }
        elif begin == 10:
            assert (NOTHING,) * 19 in histories  # nothing lies behind the last section of two
        else:
            assert (*range(10, 19), *[NOTHING] * 10) in histories


def test_long_videos_show_their_middle_as_two_sections_from_the_start() -> None:
    deep = [draw_pattern("original", 5, random.Random(seed)) for seed in range(40)]
    assert {p.target_times[0] for p in deep} == {19, 28}
    assert segment_starts()[0] == 0


def test_photos_are_found_and_a_missing_one_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert list(load_photos({"sklearn": ("china.jpg", "none.jpg")})) == ["china.jpg"]
    assert "none.jpg" in caplog.text


def test_pictures_repeat_with_their_seed_and_differ_from_each_other() -> None:
    first, again = (PictureSource("cpu", 7, {"sklearn": ("china.jpg",)}).sample(12, 48, 64) for _ in range(2))
    assert first.shape == (12, 3, 48, 64)
    assert first.min() >= 0
    assert first.max() <= 1
    torch.testing.assert_close(first, again)
    assert (first[0] - first[1]).abs().mean() > 0.01


@pytest.mark.parametrize("frames", [1, 9])
def test_the_quick_autoencoder_gives_the_same_numbers_and_gradients(frames: int) -> None:
    torch.manual_seed(0)
    model = AutoencoderKLHunyuanVideo(**SMALL_VAE | {"mid_block_add_attention": False})
    clips = torch.randn(2, 3, frames, 32, 32)
    mean, logvar = model.quant_conv(model.encoder(clips)).chunk(2, dim=1)
    out = decode(model, mean)
    (out.square().mean() + mean.square().mean() + logvar.mean()).backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    quick_mean, std, quick_out = QuickVae(model, torch.float32)(clips, 0, noise=0.0)
    (quick_out.square().mean() + quick_mean.square().mean() + 2 * std.log().mean()).backward()
    torch.testing.assert_close(quick_mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quick_out, out, atol=1e-4, rtol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-3, rtol=1e-3)


def test_patch_matrices_are_the_convolution() -> None:
    conv = torch.nn.Conv3d(4, 6, kernel_size=(2, 4, 4), stride=(2, 4, 4))
    latents = torch.randn(2, 4, 4, 8, 12)
    holder = with_matrices(torch.nn.Sequential(conv))
    assert holder[0] is not conv
    torch.testing.assert_close(holder(latents), conv(latents))
    assert list(holder.state_dict()) == ["0.weight", "0.bias"]
    flat = torch.nn.Conv2d(3, 5, kernel_size=8, stride=8)
    pictures = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(with_matrices(torch.nn.Sequential(flat))(pictures), flat(pictures))


def test_muon_steps_along_orthogonal_directions() -> None:
    assert torch.linalg.svdvals(orthogonal(torch.randn(3, 8, 20))).sub(1).abs().max() < 0.45
    kernel = torch.nn.Parameter(torch.zeros(4, 2, 3))
    kernel.grad = torch.randn(4, 2, 3)
    Muon([kernel], lr=0.1).step()
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.3)
    assert (kernel * kernel.grad).sum() < 0


def test_normalised_latents_have_unit_variance_and_pictures_stay_the_same() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(**SMALL_VAE)
    clips = torch.rand(2, 3, 33, 32, 32) * 2 - 1
    with torch.no_grad():
        mean, logvar = posterior(vae, clips)
        assert mean.shape == (2, 16, 9, 4, 4)
        before = decode(vae, mean[:, :, :5])
        normalise(vae, mean.mean((0, 2, 3, 4)), mean.std((0, 2, 3, 4)))
        after_mean, after_logvar = posterior(vae, clips)
        after = decode(vae, after_mean[:, :, :5])
    scaled = after_mean * vae.config.scaling_factor
    torch.testing.assert_close(scaled.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    gain = after_mean.std((0, 2, 3, 4)) / mean.std((0, 2, 3, 4))
    torch.testing.assert_close((after_logvar - logvar).mean((0, 2, 3, 4)), 2 * gain.log(), atol=1e-3, rtol=1e-3)


def test_noise_levels_follow_the_samplers_schedule() -> None:
    shape = torch.Size((64, 16, 9, 16, 16))
    drawn = draw_sigmas(64, shape, torch.device("cpu")).sort().values
    schedule = flux_sigmas(64, flux_mu(shape)).flip(0)
    assert torch.all(drawn >= schedule[:-1] - 1e-6)
    assert torch.all(drawn <= schedule[1:] + 1e-6)


def history(forward: bool) -> pool.Batch:
    """Blank history of 50 sections after a start picture, of F1's layout or the original's; 4x holds nothing."""
    return pool.Batch(
        target=torch.zeros(50, 16, 9, 2, 2),
        clean=torch.zeros(50, 16, 2, 2, 2),
        clean_2x=torch.zeros(50, 16, 2, 2, 2),
        clean_4x=torch.zeros(50, 16, 16, 2, 2),
        movable={
            "clean": torch.tensor([[False, True]]).expand(50, -1),
            "clean_2x": torch.ones(50, 2, dtype=torch.bool),
            "clean_4x": torch.zeros(50, 16, dtype=torch.bool),
        },
        times={"target": torch.full((50, 9), 20 if forward else 1), "clean_4x": torch.full((50, 16), 16)},
        text=torch.zeros(50, 1, 1),
        pooled=torch.zeros(50, 1),
        thumbnails=torch.zeros(50, 3, 4, 4),
        kind=torch.zeros(50, dtype=torch.long),
    )


def test_disturbance_spares_the_start_picture_and_blanks() -> None:
    batch = history(forward=False)
    torch.manual_seed(0)
    noise_augment(batch)
    changed = batch.clean[:, :, 1].std((1, 2, 3))
    assert 0.3 < (changed > 0).float().mean() < 0.9
    assert changed.max() < 0.5
    assert not batch.clean[:, :, 0].any()
    assert not batch.clean_4x.any()


def test_what_goes_forward_sees_history_in_another_colour_than_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_transformer, "DISTURBANCE", 0.0)
    torch.manual_seed(0)
    backward, forward = history(forward=False), history(forward=True)
    unanchored = history(forward=True)
    unanchored.movable["clean"] = torch.ones(50, 2, dtype=torch.bool)
    for batch in (backward, forward, unanchored):
        noise_augment(batch)
    assert not backward.clean.any()
    assert not unanchored.clean.any()
    assert not forward.clean[:, :, 0].any()
    assert not forward.clean_4x.any()
    tint = forward.clean[:, :, 1, 0, 0]
    assert 0.3 < tint.any(dim=1).float().mean() < 0.7
    assert tint.abs().max() < 0.5
    torch.testing.assert_close(forward.clean[:, :, 1], tint[:, :, None, None].expand(-1, -1, 2, 2))
    torch.testing.assert_close(forward.clean_2x, tint[:, :, None, None, None].expand(-1, -1, 2, 2, 2))


def test_weights_are_cut_into_pieces_and_come_back(tmp_path) -> None:
    tensors = {f"t{i}": torch.randn(10, 20) for i in range(5)}
    save_weights(tensors, tmp_path, "part", max_piece=1000)
    assert len(list(tmp_path.glob("part-*.safetensors"))) == 3
    found = load_weights(tmp_path, "part")
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=1e-3)
    with pytest.raises(FileNotFoundError, match="train that part first"):
        load_weights(tmp_path, "other")


def test_averages_follow_and_swap() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for _ in range(60):
        average.update()
    assert 0.9 < average.weights()["weight"][0, 0] < 1
    average.swap()
    assert layer.weight[0, 0] < 1
    average.swap()
    assert layer.weight[0, 0] == 1


def test_rate_warms_up_and_falls_over_all_calls(tmp_path) -> None:
    run = Run(tmp_path, "part", Budget(minutes=1, total_minutes=2))
    first = run.rate()
    run.steps = 500
    assert first < 0.05 < run.rate() == 1
    run.seconds_before = 114
    assert run.rate() < 0.11
    assert run.fraction == pytest.approx(0.95, abs=0.01)
    assert not run.over
    run.seconds_before = 121
    assert run.over


@pytest.mark.slow
def test_text_encoders_give_what_the_product_computes(tmp_path) -> None:
    from diffusers_helper.encoders.hunyuan import encode_prompt_conds

    save_tokenizers(tmp_path)
    words = Tokenizers.load(tmp_path)
    encoders = TextEncoders(words).eval()
    prompt = "The camera slowly pans to the left."
    states, pooled = encode_prompt_conds(prompt, encoders.llama, encoders.clip, words.llama, words.clip)
    with torch.no_grad():
        ids = torch.tensor(words.llama_ids([prompt]))
        torch.testing.assert_close(encoders.states(ids), states)
        torch.testing.assert_close(encoders.pooled(torch.tensor(words.clip_ids([prompt]))), pooled)
    assert states.shape == (1, ids.shape[1], family.LLAMA_WIDTH)


@pytest.mark.slow
def test_a_toy_run_trains_resumes_exports_and_samples(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of the family for a few steps, at a few pixels, through the command line."""
    sizes, shapes = {(1, 32): 20, (17, 32): 10}, {(32, 32): 0.5, (32, 48): 0.5}
    few_motions = {name: name for name in ("pan left", "pan up", "still")}
    small = {
        family: {
            "VAE": SMALL_VAE | {"mid_block_add_attention": False},
            "TRANSFORMER": family.TRANSFORMER | SMALL_TRANSFORMER,
        },
        pool: {"SHAPES": shapes, "CHUNK": 2},
        stills: {"SHAPES": shapes},
        train_lora: {"SQUARE": {(32, 32): 1.0}},
        train_vae: {"CROP": 32, "FULL": 32, "BATCHES": sizes, "BANKS": sizes},
        evaluate: {"SIDE": 32, "PROMPTS": few_motions},
        evaluate_directed: {
            "SIDE": 32,
            "PROMPTS": few_motions,
            "END_MOTIONS": ("pan left",),
            "JOINTS": {"before": ("pan up", False, 0), "loop": ("pan left", True, 0)},
            "CHANGES": (("pan left", "pan up"),),
            "FRAMES": 1,
        },
    }
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    folder, mirror = tmp_path / "run", tmp_path / "mirror"
    common = ["--folder", str(folder)]
    main(["words", *common])
    main(["vae", *common, "--steps", "3", "--scale", "0.1"])
    main(["text", *common, "--steps", "2", "--batch", "4", "--captions", "50"])
    for _ in range(2):
        main(["transformer", *common, "--steps", "2", "--batch", "3", "--pool-size", "4", "--mirror", str(mirror)])
    main(["export", *common, "--output", str(tmp_path / "tiny")])

    record = Run(folder, "transformer", Budget(1, 1)).record
    assert record["steps"] == 4
    assert all(np.isfinite(point["loss"]) for point in record["curve"])
    assert sorted(file.name for file in mirror.iterdir()) == ["transformer-0.safetensors", "transformer.json"]
    LocalFolder(tmp_path / "tiny").check(["original", "f1"])

    again = ["--folder", str(tmp_path / "again"), "--models", str(tmp_path / "tiny")]
    main(["begin", *again])
    assert not any(weight.any() for name, weight in load_weights(tmp_path / "again", "text").items() if "heads" in name)
    for name, weight in load_weights(folder, "vae").items():
        torch.testing.assert_close(load_weights(tmp_path / "again", "vae")[name], weight)
    for name, weight in load_weights(folder, "transformer").items():
        torch.testing.assert_close(load_weights(tmp_path / "again", "transformer")[name], weight, atol=1e-3, rtol=8e-3)
    few = ["--steps", "2", "--batch", "2", "--pool-size", "4", "--captions", "4"]
    main(["all", *again, *few, "--sampling-steps", "1", "--drawn", "1"])
    found = Run(tmp_path / "again", "transformer", Budget(1, 1)).record["evaluation"]
    assert set(found["directed"]) == {"end_picture", "joints", "sections_right", "frames", "wordings_right"}

    file = tmp_path / "out" / "lean.safetensors"
    leaning = ["lora", "--folder", str(tmp_path / "lora"), "--models", str(tmp_path / "tiny"), "--output", str(file)]
    for _ in range(2):  # the second begins anew
        main([*leaning, "--steps", "2", "--batch", "2", "--pool-size", "4"])
    record = Run(tmp_path / "lora", "lora", Budget(1, 1)).record
    assert (record["steps"], record["clips_made"]) == (2, 2)
    still = [name for name, weight in load_file(file).items() if not weight.any()]
    assert all("add_" in name or "context" in name for name in still), "words mean nothing to this model yet"


def toy_batch(count: int) -> pool.Batch:
    """Two sections of small latents with everything that a model reads."""
    sizes = {"target": 9, "clean": 2, "clean_2x": 2, "clean_4x": 16}
    chosen = [
        draw_pattern(variant, 0, random.Random(index)) for index, variant in enumerate(("original", "f1") * count)
    ]
    numbers = stacked(chosen)
    return pool.Batch(
        **{name: torch.randn(2 * count, 16, size, 4, 6) for name, size in sizes.items()},
        movable={name: torch.ones(2 * count, sizes[name], dtype=torch.bool) for name in sizes if name != "target"},
        times={name: torch.from_numpy(numbers[f"{name}_times"]) for name in sizes},
        text=torch.randn(2 * count, 7, family.LLAMA_WIDTH),
        pooled=torch.randn(2 * count, family.CLIP_WIDTH),
        thumbnails=torch.randn(2 * count, 3, 64, 64),
        kind=torch.from_numpy(numbers["kind"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "learns"), [(5.0, True), (0.0, False), (-5.0, False)])
def test_a_toy_run_learns(rate: float, learns: bool) -> None:
    """The training's own step on one batch whose noise can be told from what is shown; it learns downhill alone."""
    torch.manual_seed(0)
    model, inputs = TrainModel(**SMALL_TRANSFORMER), toy_batch(2).flat()
    inputs["target"].zero_()
    half, optimizers = HalfCopy(model, torch.float32), train_transformer._optimizers(model)
    step = GraphedStep(
        lambda given, _: train_transformer.flow_losses(half.module, given), list(model.parameters()), optimizers, half
    )
    losses = []
    for _ in range(24):
        set_rates(optimizers, rate)
        losses.append(float(step(inputs | train_transformer.draw_levels(inputs["target"]))["loss"]))
    before, after = (sum(part) / 4 for part in (losses[:4], losses[-4:]))
    assert (after < 0.75 * before) == learns


def test_the_trained_arithmetic_is_the_transformers() -> None:
    torch.manual_seed(0)
    model, batch = TrainModel(**SMALL_TRANSFORMER).eval(), toy_batch(2)
    for parameter in model.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    noisy = torch.randn_like(batch.target)
    sigma, guidance = torch.rand(4), torch.full((4,), 10.0)
    flow = model(batch, noisy, sigma, guidance)
    wanted = model.transformer(
        hidden_states=noisy,
        timestep=sigma * 1000,
        encoder_hidden_states=batch.text,
        encoder_attention_mask=torch.ones(4, 7, dtype=torch.bool),
        pooled_projections=batch.pooled,
        guidance=guidance * 1000,
        latent_indices=batch.times["target"],
        clean_latents=batch.clean,
        clean_latent_indices=batch.times["clean"],
        clean_latents_2x=batch.clean_2x,
        clean_latent_2x_indices=batch.times["clean_2x"],
        clean_latents_4x=batch.clean_4x,
        clean_latent_4x_indices=batch.times["clean_4x"],
        image_embeddings=model.siglip(batch.thumbnails).last_hidden_state,
        return_dict=False,
    )[0]
    assert wanted.std() > 0.1
    torch.testing.assert_close(flow, wanted, atol=1e-4, rtol=1e-4)
