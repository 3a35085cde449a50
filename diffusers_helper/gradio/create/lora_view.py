"""What the page shows of the chosen LoRA files, as HTML; page.js turns its sliders and buttons into text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.gradio.view import fault
from diffusers_helper.model_files.lora_details import LoraDetails
from diffusers_helper.model_files.sizes import readable_size

SLIDER = 2
"""A slider goes from minus this to this; other weights are typed."""


@dataclass(frozen=True)
class ChosenLora:
    """A LoRA that the user chose: its weight and, where the file is here, its size in bytes and what is known of it.

    `picture` is a data URL, and `problem` a sentence on why it cannot be used; both may be empty.
    """

    lora: Lora
    size: int = 0
    details: LoraDetails = field(default_factory=LoraDetails)
    picture: str = ""
    problem: str = ""


def cards(chosen: Iterable[ChosenLora], t: Language = ENGLISH) -> str:
    """Return a card for each LoRA, with what is known of it and its weight; empty for none."""
    items = "".join(_card(one, t) for one in chosen)
    return f'<ul class="fp-loras">{items}</ul>' if items else ""


def _card(chosen: ChosenLora, t: Language) -> str:
    lora, details = chosen.lora, chosen.details
    picture = f'<img src="{escape(chosen.picture)}" alt="">' if chosen.picture else ""
    parts = [
        f"<strong>{escape(lora.name)}</strong>",
        fault(t(chosen.problem), heard=False),
        _paragraph(_facts(chosen, t)),
        _paragraph(details.description),
        _words(details, t),
    ]
    weight = "" if chosen.problem else _weight(lora, t)
    return (
        f'<li class="fp-card" data-lora="{escape(lora.name)}" data-weight="{escape(lora.weight_text)}">{picture}'
        f"<div>{''.join(parts)}</div>{weight}</li>"
    )


def _facts(chosen: ChosenLora, t: Language) -> str:
    details = chosen.details
    known = [
        details.title,
        t("by {author}", author=details.author) if details.author else "",
        t("for {model}", model=details.base_model) if details.base_model else "",
        t("rank {rank}", rank=details.rank) if details.rank else "",
        readable_size(chosen.size) if chosen.size else "",
    ]
    return " · ".join(filter(None, known))


def _words(details: LoraDetails, t: Language) -> str:
    if not details.trigger_words:
        tags = ", ".join(details.tags)
        return _paragraph(t("Often in its training captions: {tags}", tags=tags)) if tags else ""
    words = escape(", ".join(details.trigger_words))
    return (
        f"<p>{t('Trigger words:')} <em>{words}</em></p>"
        f'<button type="button" data-words="{words}">{t("Put them into the prompt")}</button>'
    )


def _weight(lora: Lora, t: Language) -> str:
    if not isinstance(lora.weight, float):
        text = escape(t("Weight over time: {weight}", weight=lora.weight_text))
        return f'<div class="fp-weight"><span>{text}</span></div>'
    name = escape(t("Weight of {name}", name=lora.name))
    value = f'step="0.05" value="{lora.weight:g}" aria-label="{name}"'
    slider = f'<input type="range" min="-{SLIDER}" max="{SLIDER}" {value}>'
    return f'<div class="fp-weight"><span>{t("Weight")}</span>{slider}<input type="number" {value}></div>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""
