"""What there is to know of a LoRA file without its weights: from its header, and from the files beside it.

Programs that train write `ss_*` (kohya) or `modelspec.*` into the header; programs that fetch or manage files leave
`NAME.json`, `NAME.civitai.info`, `NAME.metadata.json` or `NAME.txt` beside them, and people write those by hand. All of
it is data from outside: texts are cut and cleaned, and what has another form than expected is passed over.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import open_regular, parsed_json
from diffusers_helper.core.loras import MAX_WEIGHT
from diffusers_helper.core.messages import Message
from diffusers_helper.media.text_files import decoded
from diffusers_helper.model_files.headers import read_header_and_metadata

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NOTES = (".json", ".civitai.info", ".metadata.json", ".txt")
"""What follows a file's stem in the names of the files about it, the first before the next."""
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
MAX_BESIDE = 1_000_000
"""Bytes of a file with notes; longer ones are passed over."""
_MAX_TAGS_TEXT = 5_000_000
_LINE, _TEXT, _WORDS, _TAGS = 200, 2000, 30, 8
_RANK_AXIS = {".lora_down": 0, ".lora_A": 0, ".lora.down": 0, ".hada_w1_b": 0, ".lokr_w2_b": 0, ".lokr_w1_b": 0}
"""Which axis of a factor is the rank."""
_FACTORS = re.compile(r"\.(lora_(down|up|A|B)|lora\.(down|up)|hada_w|lokr_w|diff(_b)?$)")
_TAG = re.compile(r"<[^<>]*>")
_SEPARATORS = re.compile(r"[,\n;]+")


@dataclass(frozen=True)
class LoraDetails:
    """What is known of one file.

    Attributes:
        problem: why it cannot be used, to follow its name; empty if nothing is known against it.
        title, author, base_model, description: texts for people; the page has to escape them.
        rank: of most of its factors; None where they have none.
        trigger_words: what its maker says to put into the prompt.
        tags: the most frequent of its training captions.
        weight: at which its maker likes it best.
        thumbnail: a picture inside the file, as a data URL.
    """

    problem: str = ""
    title: str = ""
    author: str = ""
    base_model: str = ""
    description: str = ""
    rank: int | None = None
    trigger_words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    weight: float | None = None
    thumbnail: str = ""


def read_details(path: Path, beside: Iterable[Path] = ()) -> LoraDetails:
    """Return what the file at `path` and those `beside` it tell; what is wrong with the file is in `problem`."""
    if problem := _problem_of_name(path):
        return LoraDetails(problem)
    try:
        with open_regular(path):  # not a pipe, whose opening waits for somebody to write
            header, metadata = read_header_and_metadata(path)
    except SettingsError:
        return LoraDetails(Message("cannot be read; look at its permissions, and whether it is a file"))
    except OSError as error:
        return LoraDetails(Message("cannot be read: {reason}", reason=error.strerror or str(error)))
    except ValueError as error:
        return LoraDetails(error.args[0])
    if not any(_FACTORS.search(name) for name in header):
        return LoraDetails(Message("holds no LoRA, but other weights"))
    return _told(_rank(header, metadata), metadata, [*map(_notes, beside)])


def _problem_of_name(path: Path) -> str:
    if path.suffix.lower() in PICKLES:
        return Message("is a pickle, which could run any program: only .safetensors files are read")
    if not path.name.isprintable() or ";" in path.name:
        return Message("has a name that cannot be typed here; rename it")
    return ""


def _rank(header: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str]) -> int | None:
    ranks: Counter[int] = Counter()
    for name, entry in header.items():
        for suffix, axis in _RANK_AXIS.items():
            if suffix in name and len(entry["shape"]) > axis:
                ranks[entry["shape"][axis]] += 1
    if ranks:
        return ranks.most_common(1)[0][0]
    said = metadata.get("ss_network_dim", "")
    return int(said) if said.isdecimal() and len(said) < 6 else None


def _notes(path: Path) -> dict[str, Any]:
    """The content of a file with notes, a text as what its lines mean; empty if it is of no use."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BESIDE + 1)
        text = decoded(data) if len(data) <= MAX_BESIDE else ""
        if path.suffix.lower() == ".txt":
            first, _, rest = text.strip().partition("\n")
            return {"activation text": first, "description": rest}
        found = parsed_json(text)
    except (SettingsError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _told(rank: int | None, metadata: Mapping[str, str], notes: list[dict[str, Any]]) -> LoraDetails:
    """Put together what the notes say, each before the next, and then the file itself."""
    more = [part for found in notes for part in _parts(found)]
    sources: list[Mapping[str, Any]] = [*more, metadata]

    def text(*names: str, most: int = _LINE) -> str:
        return next(filter(None, (_clean(source.get(name), most) for source in sources for name in names)), "")

    return LoraDetails(
        title=text("modelspec.title", "model_name", "ss_output_name"),
        author=text("modelspec.author"),
        base_model=text(
            "sd version",
            "baseModel",
            "base_model",
            "ss_base_model_version",
            "modelspec.architecture",
            "ss_sd_model_name",
        ),
        description=text(
            "description", "modelDescription", "notes", "modelspec.description", "ss_training_comment", most=_TEXT
        ),
        rank=rank,
        trigger_words=_first(
            _words(source.get(name))
            for source in sources
            for name in ("activation text", "activation_text", "trainedWords", "modelspec.trigger_phrase")
        ),
        tags=_frequent(metadata.get("ss_tag_frequency", "")),
        weight=next(filter(None, map(_weight, sources)), None),
        thumbnail=_thumbnail(metadata.get("modelspec.thumbnail", "")),
    )


def _parts(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the notes and what is nested in them where managers of files have it."""
    yield found
    for name in ("civitai", "usage_tips"):
        inner = found.get(name)
        if isinstance(inner, str):
            with suppress(ValueError):
                inner = parsed_json(inner)
        if isinstance(inner, dict):
            yield inner


def _first(found: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return next(filter(None, found), ())


def _words(value: object) -> tuple[str, ...]:
    """Trigger words, from a list or from a text with commas; each once."""
    parts = value if isinstance(value, list) else [value]
    words = (word for part in parts if isinstance(part, str) for word in _SEPARATORS.split(part))
    return tuple(dict.fromkeys(filter(None, (_clean(word, _LINE) for word in words))))[:_WORDS]


def _frequent(text: str) -> tuple[str, ...]:
    """The most frequent tags of kohya's {folder: {tag: count}}."""
    counts: Counter[str] = Counter()
    try:
        found = parsed_json(text) if len(text) <= _MAX_TAGS_TEXT else None
    except ValueError:
        found = None
    for tags in found.values() if isinstance(found, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and (tag := _clean(tag, _LINE)):
                counts[tag] += count
    return tuple(tag for tag, _ in counts.most_common(_TAGS))


def _weight(source: Mapping[str, Any]) -> float | None:
    """The weight that notes recommend; 0 stands for none there."""
    for name in ("preferred weight", "strength"):
        with suppress(TypeError, ValueError, OverflowError):
            weight = float(source.get(name, 0))
            if 0 < abs(weight) <= MAX_WEIGHT:
                return weight
    return None


def _thumbnail(url: str) -> str:
    return url if url.startswith("data:image/") and len(url) <= MAX_BESIDE else ""


def _clean(value: object, most: int) -> str:
    """Text for people: no tags of HTML, no characters that cannot be seen, one space between words, not too long."""
    if not isinstance(value, str):
        return ""
    text = unescape(_TAG.sub(" ", value[: 4 * most]))
    visible = (" " if char.isspace() else char for char in text if char.isspace() or _visible(char))
    text = " ".join("".join(visible).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs"}
