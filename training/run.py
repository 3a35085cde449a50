"""Trains the small model folder part by part; every part can be cut into calls of a few minutes.

  python -m training.run words       --folder run                 tokenizers, some seconds
  python -m training.run vae         --folder run --minutes 7     the autoencoder
  python -m training.run text        --folder run --minutes 1     the text encoders
  python -m training.run transformer --folder run --minutes 8 --total-minutes 16
                                                                  twice: the second call goes on where the first ended
  python -m training.run evaluate    --folder run --sheet run/sheet.png
  python -m training.run export      --folder run --output assets/tiny

  python -m training.run lora        --folder run --models assets/tiny --minutes 2 --output lean.safetensors
                                                                  a LoRA of a motion that the model does not know
  python -m training.run preview     --folder run --models assets/tiny --minutes 20 --output preview_decoder.safetensors
                                                                  the small decoder of previews
  python -m training.run all         --folder run --models assets/tiny --minutes 8
                                                                  goes on from a model folder's weights: text encoders,
                                                                  transformer and figures; again for what is left

Weights, records and loss curves lie in the folder; docs/training.md tells the whole story.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.begin import begin
from training.checkpoint import load_record, save_record
from training.evaluate import Parts, evaluate, new_pictures
from training.evaluate_directed import evaluate_directed
from training.export import export
from training.loop import Budget, pick_device, say
from training.texts import Tokenizers, save_tokenizers
from training.train_lora import train_lora
from training.train_preview import train_preview
from training.train_text import load_encoders, train_text
from training.train_transformer import load_model, load_vae, train_transformer
from training.train_vae import train_vae

TEXT_MINUTES, TRANSFORMER_MINUTES = 1.0, 10.0
GENTLE = 0.5
"""Factor on the learning rates where weights know much already."""
TRAINERS: dict[str, Callable[..., object]] = {"vae": train_vae, "text": train_text, "transformer": train_transformer}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do one of the steps."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    if options.command == "words":
        save_tokenizers(options.folder)
    elif options.command == "evaluate":
        _evaluate(options)
    elif options.command == "begin":
        begin(options.folder, options.models)
    elif options.command == "all":
        _all(options)
    elif options.command == "lora":
        begin(options.folder, options.models)
        train_lora(
            options.folder,
            Budget(options.minutes, options.minutes, options.steps),
            options.output,
            batch=options.batch,
            pool_size=options.pool_size,
            device_name=options.device,
        )
    elif options.command == "preview":
        begin(options.folder, options.models)
        budget = Budget(options.minutes, options.minutes, options.steps)
        train_preview(options.folder, budget, options.output, device_name=options.device)
    elif options.command == "export":
        export(options.folder, options.output)
    else:
        budget = Budget(options.minutes, options.total_minutes or options.minutes, options.steps)
        more = {
            name: getattr(options, name)
            for name in ("scale", "captions", "batch", "pool_size", "compiled", "fill_seconds", "rate", "extras")
            if hasattr(options, name)
        }
        TRAINERS[options.command](
            options.folder, budget, mirror=options.mirror, seed=options.seed, device_name=options.device, **more
        )


def _all(options: argparse.Namespace) -> None:
    """What is not done yet of the text encoders, the transformer and their figures, in the minutes of this call."""
    started = time.monotonic()
    begin(options.folder, options.models)
    common: dict[str, Any] = {
        "mirror": options.mirror,
        "seed": options.seed,
        "device_name": options.device,
        "rate": GENTLE,
    }
    if not load_record(options.folder, "text"):
        budget = Budget(TEXT_MINUTES, TEXT_MINUTES, options.steps)
        train_text(options.folder, budget, batch=options.captions, **common)
    total = options.total_minutes or TRANSFORMER_MINUTES
    left = options.minutes - (time.monotonic() - started) / 60
    if left > 0 and load_record(options.folder, "transformer").get("seconds", 0) < 60 * total:
        train_transformer(
            options.folder,
            Budget(left, total, options.steps),
            batch=options.batch,
            pool_size=options.pool_size,
            compiled=options.compiled,
            fill_seconds=options.fill_seconds,
            **common,
        )
    say(f"{time.monotonic() - started:.0f} s until the weights were done")
    if options.steps or load_record(options.folder, "transformer").get("seconds", 0) >= 60 * total:
        _evaluate(options)
    say(f"{time.monotonic() - started:.0f} s in all")


def _evaluate(options: argparse.Namespace) -> None:
    device = pick_device(options.device)
    words = Tokenizers.load(options.folder)
    model = load_model(options.folder).to(device)
    encoders = load_encoders(options.folder, words).to(device).eval()
    parts = Parts(load_vae(options.folder).to(device), words, encoders, model.transformer, model.siglip, device)
    found = evaluate(parts, options.sheet, options.sampling_steps, options.drawn)
    say(str(found))
    found["directed"] = evaluate_directed(parts, new_pictures(device, options.drawn), options.sampling_steps)
    say(str(found["directed"]))
    record = load_record(options.folder, "transformer") | {"evaluation": found}
    for folder in (options.folder, options.mirror):
        if folder:
            save_record(record, folder, "transformer")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, required=True, help="weights and records of this training")
    common.add_argument("--mirror", type=Path, help="a second folder that gets the same files")
    common.add_argument("--device", help="default: cuda where there is one, else cpu")
    timed = argparse.ArgumentParser(add_help=False, parents=[common])
    timed.add_argument("--minutes", type=float, default=8.0, help="end this call after so long (default: %(default)s)")
    timed.add_argument("--total-minutes", type=float, help="of all calls of this part together (default: this call's)")
    timed.add_argument("--steps", type=int, default=0, help="end after so many steps instead, for trials")
    timed.add_argument("--seed", type=int, default=0)

    commands.add_parser("words", parents=[common], help="make the tokenizers")
    vae = commands.add_parser("vae", parents=[timed], help="train the autoencoder")
    vae.add_argument("--scale", type=float, default=1.0, help="factor on the batches, for trials")
    text = commands.add_parser("text", parents=[timed], help="train the text encoders")
    text.add_argument("--captions", type=int, default=100_000, help="captions drawn ahead")
    text.add_argument("--batch", type=int, default=256)
    clips = argparse.ArgumentParser(add_help=False)
    clips.add_argument("--batch", type=int, default=64)
    clips.add_argument("--pool-size", type=int, default=12_000, help="clips kept as latents")
    clips.add_argument("--fill-seconds", type=float, default=50.0, help="time for the first clips")
    clips.add_argument("--eager", dest="compiled", action="store_false", help="compile nothing")
    transformer = commands.add_parser("transformer", parents=[timed, clips], help="train the transformer")
    for part in (text, transformer):
        part.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    transformer.add_argument("--extras", type=float, default=1.0, help="factor on the shares of all but plain videos")
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument("--models", type=Path, default=Path("assets/tiny"), help="(default: %(default)s)")
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("--folder", type=Path, required=True, help="weights and the record of this training")
    file.add_argument("--output", type=Path, required=True, help="the file")
    file.add_argument("--device", help="default: cuda where there is one, else cpu")
    file.add_argument("--steps", type=int, default=0, help="end after so many steps instead, for trials")
    preview = commands.add_parser("preview", parents=[models, file], help="train a model folder's decoder of previews")
    preview.add_argument("--minutes", type=float, default=20.0, help="end after so long (default: %(default)s)")
    lora = commands.add_parser("lora", parents=[models, file], help="train a LoRA for a model folder")
    lora.add_argument("--minutes", type=float, default=2.0, help="end after so long (default: %(default)s)")
    lora.add_argument("--batch", type=int, default=64)
    lora.add_argument("--pool-size", type=int, default=3000, help="clips kept as latents")
    looked = argparse.ArgumentParser(add_help=False)
    looked.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    looked.add_argument("--sampling-steps", type=int, default=16)
    looked.add_argument("--drawn", type=int, default=4, help="drawn pictures beside the held-out photographs")
    commands.add_parser("begin", parents=[common, models], help="take weights from a model folder")
    whole = commands.add_parser("all", parents=[timed, clips, models, looked], help="go on from a model folder")
    whole.add_argument("--captions", type=int, default=256, help="captions in a batch of the text encoders")
    commands.add_parser("evaluate", parents=[common, looked], help="sample clips, compare them with the right ones")
    out = commands.add_parser("export", parents=[common], help="write a model folder")
    out.add_argument("--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    main()
