"""Trains the small model folder part by part; every part can be cut into calls of a few minutes.

  python -m training.run words       --folder run                 tokenizers, some seconds
  python -m training.run vae         --folder run --minutes 7     the autoencoder
  python -m training.run text        --folder run --minutes 1     the text encoders
  python -m training.run transformer --folder run --minutes 8 --total-minutes 16
                                                                  twice: the second call goes on where the first ended
  python -m training.run evaluate    --folder run --sheet run/sheet.png
  python -m training.run export      --folder run --output assets/tiny

Weights, records and loss curves lie in the folder; docs/training.md tells the whole story.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from training.checkpoint import load_record, save_record
from training.evaluate import Parts, evaluate
from training.export import export
from training.loop import Budget, pick_device, say
from training.texts import Tokenizers, save_tokenizers
from training.train_text import load_encoders, train_text
from training.train_transformer import load_model, load_vae, train_transformer
from training.train_vae import train_vae

TRAINERS: dict[str, Callable[..., object]] = {"vae": train_vae, "text": train_text, "transformer": train_transformer}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do one of the steps."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    if options.command == "words":
        save_tokenizers(options.folder)
    elif options.command == "evaluate":
        _evaluate(options)
    elif options.command == "export":
        export(options.folder, options.output)
    else:
        budget = Budget(options.minutes, options.total_minutes or options.minutes, options.steps)
        more = {
            name: getattr(options, name)
            for name in ("scale", "captions", "batch", "pool_size", "compiled", "fill_seconds")
            if hasattr(options, name)
        }
        TRAINERS[options.command](
            options.folder, budget, mirror=options.mirror, seed=options.seed, device_name=options.device, **more
        )


def _evaluate(options: argparse.Namespace) -> None:
    device = pick_device(options.device)
    words = Tokenizers.load(options.folder)
    model = load_model(options.folder).to(device)
    encoders = load_encoders(options.folder, words).to(device).eval()
    parts = Parts(load_vae(options.folder).to(device), words, encoders, model.transformer, model.siglip, device)
    found = evaluate(parts, options.sheet, options.sampling_steps, options.drawn)
    say(str(found))
    for folder in (options.folder, options.mirror):
        if folder:
            save_record(load_record(folder, "transformer") | {"evaluation": found}, folder, "transformer")


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
    transformer = commands.add_parser("transformer", parents=[timed], help="train the transformer")
    for command, size in ((text, 256), (transformer, 64)):
        command.add_argument("--batch", type=int, default=size)
    transformer.add_argument("--pool-size", type=int, default=12_000, help="clips kept as latents")
    transformer.add_argument("--fill-seconds", type=float, default=50.0, help="time for the first clips")
    transformer.add_argument("--eager", dest="compiled", action="store_false", help="compile nothing")
    look = commands.add_parser("evaluate", parents=[common], help="sample clips and compare them with the right ones")
    look.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    look.add_argument("--sampling-steps", type=int, default=16)
    look.add_argument("--drawn", type=int, default=4, help="drawn pictures beside the held-out photographs")
    out = commands.add_parser("export", parents=[common], help="write a model folder")
    out.add_argument("--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    main()
