"""The frame of the page as HTML; page.js beside it does what its menus and buttons say."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from diffusers_helper.core.messages import ENGLISH, LANGUAGES, Language, Message

COLOURS = {"system": Message("As the system"), "light": Message("Light"), "dark": Message("Dark")}
TABS = {
    "create": Message("Create"),
    "watch": Message("Watch"),
    "queue": Message("Queue"),
    "history": Message("History"),
}
"""What a phone shows one at a time; the first three are one tab of a wide screen."""


KEYS = (
    ("Ctrl+Enter", Message("Start, or add to the queue")),
    ("Esc", Message("End the video, after a question")),
    ("Alt+1", Message("Create")),
    ("Alt+2", Message("History")),
    ("Alt+3", Message("Settings")),
    ("Alt+P", Message("To the words of the video")),
    ("Alt+O", Message("To the presets")),
    ("Alt+R", Message("To the earlier prompts")),
    ("Alt+V", Message("Play or pause the video")),
    ("Alt+Q", Message("To the queue")),
    ("Alt+T", Message("Open or close the timeline")),
    ("Alt+← →", Message("In the timeline: exchange a section with the one beside it")),
    ("← → ↑ ↓", Message("Move what has the focus: sliders, the frame over the photo, lists")),
    ("Alt+↑ ↓", Message("In the queue: move the video up or down")),
    ("Del", Message("In the queue and the history: remove the video")),
    ("S C 0–5", Message("In the history: star, compare, rate")),
    ("?", Message("This list")),
)
"""What the page does at a key; page.js beside this file has the same."""


def header(title: str, note: str = "", badge: str = "", t: Language = ENGLISH) -> str:
    """Return the heading with its menus; where there is a `note` about the models, a `badge` that opens it."""
    about = (
        f'<details class="fp-badge"><summary>{escape(t(badge))} <span aria-hidden="true">ⓘ</span></summary>'
        f'<div class="fp-note" role="note">{escape(t(note))}</div></details>'
        if note
        else ""
    )
    keys = f'<button type="button" id="keys-open" aria-label="{escape(t("Keys"))}" aria-haspopup="dialog">?</button>'
    settings = f'<button type="button" id="settings-open" aria-label="{escape(t("Settings"))}">⚙</button>'
    return (
        f'<header class="fp-head"><h1>{escape(title)}</h1>{about}<div class="fp-menus">'
        f"{_menu('language', t('Language'), LANGUAGES, t.tag)}"
        f"{_menu('colours', t('Colours'), {name: t(label) for name, label in COLOURS.items()}, 'system')}"
        f"{settings}{keys}</div></header>{_sheet(t)}"
    )


def bar(t: Language = ENGLISH) -> str:
    """Return the bar of a phone: Start or how far the video is, and what is to be seen."""
    tabs = "".join(
        f'<button type="button" data-see="{name}"{" aria-current=true" if name == "create" else ""}>{t(label)}</button>'
        for name, label in TABS.items()
    )
    return (
        '<div class="fp-bar"><div class="fp-bar-line"><span class="fp-bar-told"></span>'
        f'<button type="button" data-press="start">{t("Start")}</button>'
        f'<button type="button" data-press="end" hidden>{t("End")}</button></div>'
        f'<nav aria-label="{escape(t("Parts of the page"))}">{tabs}</nav></div>'
    )


def _sheet(t: Language) -> str:
    rows = "".join(f"<div><dt><kbd>{key}</kbd></dt><dd>{escape(t(does))}</dd></div>" for key, does in KEYS)
    every = escape(t("Tab goes from each button and field to the next, Enter or Space presses."))
    return (
        f'<dialog id="keys" aria-labelledby="keys-title"><h2 id="keys-title">{t("Keys")}</h2><dl>{rows}</dl>'
        f'<p>{every}</p><form method="dialog"><button>{t("Close")}</button></form></dialog>'
    )


def _menu(name: str, label: str, choices: Mapping[str, str], chosen: str) -> str:
    options = "".join(
        f'<option value="{tag}"{" selected" if tag == chosen else ""}>{escape(text)}</option>'
        for tag, text in choices.items()
    )
    return f'<select id="{name}" aria-label="{escape(label)}">{options}</select>'
