"""How the page looks: the theme, the style sheet, and what the server needs to be told about both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import language
from diffusers_helper.gradio.progress_bar import make_progress_bar_css

LONG_SECONDS = 30 * 60
"""From here on a video is started only after a question."""
PATIENCE_SECONDS = 4
"""How long the server may be silent before the page shows it: three polls and their way."""
STYLE_SHEET = Path(__file__).with_name("style.css")
REGION_STYLES = sorted(Path(__file__).parent.glob("*/*.css"))
SCRIPTS = [Path(__file__).with_name("page.js"), *sorted(Path(__file__).parent.glob("*/page.js"))]
"""Each is a function of what `_for_script` returns."""


def theme() -> gr.themes.Base:
    """Return the theme: the computer's own fonts, so that nothing is fetched, and calm colours of good contrast."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        radius_size="lg",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_400",
        slider_color="*primary_600",
    )


def app_options(tag: str = "en") -> dict[str, Any]:
    """Return what `launch` and `mount_gradio_app` alike must be given for the page in the language `tag`."""
    t = language(tag)
    return {
        "auth_message": t("After several wrong passwords signing in does nothing for up to a minute."),
        "js": _script(tag),
        "theme": theme(),
        "css": make_progress_bar_css(),
        "css_paths": [STYLE_SHEET, *REGION_STYLES],
        "footer_links": [],
        "show_error": True,
        "enable_monitoring": False,
        "run_history": False,
    }


def _script(tag: str) -> str:
    parts = "\n".join(f"({script.read_text(encoding='utf-8')})(page);" for script in SCRIPTS)
    return f"() => {{ const page = {json.dumps(_for_script(tag))};\n{parts}\n}}"


def _for_script(tag: str) -> dict[str, Any]:
    t = language(tag)
    return {
        "language": tag,
        "longFrom": LONG_SECONDS,
        "patience": 1000 * PATIENCE_SECONDS,
        "ask": t("Stop the video now? What is finished is kept."),
        "long": t("This video will take about {time}. Start it?"),
        "away": t("FramePack does not answer. This page waits for it; nothing on it is lost."),
        "crop": t("The part of the photo that is in the video; arrow keys move it"),
        "left": t("about {time} left"),
        "nearly": t("nearly done"),
        "seconds": t("{seconds} s"),
        "minutesAndSeconds": t("{minutes} min {seconds} s"),
        "minutes": t("{minutes} min"),
        "hours": t("{hours} h {minutes} min"),
    }
