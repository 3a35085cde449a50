"""Every sentence a person reads is there in every language, and each reader gets theirs."""

import ast
import copy
import pickle
import string
from functools import cache
from pathlib import Path

import httpx
import orjson
import pytest

from diffusers_helper.core.errors import UnknownJobError
from diffusers_helper.core.messages import ENGLISH, LANGUAGES, Language, Message, join_sentences, language, preferred
from tests.fakes import serve_page

PACKAGE = Path(__file__).parents[1] / "diffusers_helper"
TRANSLATED = sorted(LANGUAGES.keys() - {"en"})
WRITTEN_IN = {"zh-TW": "big5", "zh-CN": "gb2312", "ja": "cp932"}
"""An encoding that has the characters of this script and not those of its neighbours."""
SIGNS = str.maketrans("", "", "×−–—·“”‘’²")
NOT_IN_TAIWAN = (
    "視頻",
    "默認",
    "屏幕",
    "信息",
    "內存",
    "顯存",
    "打印",
    "文件夾",
    "程序",
    "網絡",
    "鏈接",
    "質量",
    "軟件",
)
SHOWN = {"label", "info", "placeholder", "title", "sample_labels"}
"""Arguments of Gradio's components that a person reads."""
NAMES = {"TeaCache", "CFG", "job id", "state", "video"} | {
    "client",
    "file",
    "job ids",
    "lines",
    "match",
    "photos",
    "pick",
    "place",
    "queue",
    "takes",
}
"""The same in all languages, or not shown."""


@cache
def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def called(call):
    return getattr(call.func, "id", None) or getattr(call.func, "attr", None)


def keys():
    """Every sentence in the code that is marked for translation."""
    found = [(call, path) for path in PACKAGE.rglob("*.py") for call in calls(path) if called(call) in ("t", "Message")]
    found += [(call, path) for path in PACKAGE.rglob("*.py") for call in calls(path) if called(call) == "_t"]
    literals = [call.args[0] for call, _ in found if call.args and isinstance(call.args[0], ast.Constant)]
    return {literal.value for literal in literals}


def fields(sentence):
    """The placeholders with their formats, in any order."""
    return sorted((name, form) for _, name, form, _ in string.Formatter().parse(sentence) if name is not None)


def catalogue(tag):
    return language(tag)._catalogue


@pytest.mark.slow
@pytest.mark.parametrize("tag", TRANSLATED)
def test_every_sentence_is_translated_and_no_translation_is_left_over(tag):
    assert sorted(keys() - catalogue(tag).keys()) == [], "not translated"
    assert sorted(catalogue(tag).keys() - keys()) == [], "used nowhere"


@pytest.mark.parametrize("tag", TRANSLATED)
def test_a_translation_has_the_placeholders_and_tags_of_its_sentence(tag):
    for sentence, translation in catalogue(tag).items():
        assert fields(translation) == fields(sentence), sentence
        assert translation.count("<b>") == translation.count("</b>") == sentence.count("<b>"), sentence
        assert translation.count("\n") == sentence.count("\n"), sentence


@pytest.mark.parametrize("tag", TRANSLATED)
def test_a_catalogue_is_written_in_its_own_script(tag):
    for translation in catalogue(tag).values():
        translation.translate(SIGNS).encode(WRITTEN_IN[tag])
    assert not [word for word in NOT_IN_TAIWAN for text in catalogue("zh-TW").values() if word in text]


def test_what_a_component_shows_is_marked_for_translation():
    for path in (PACKAGE / "gradio").glob("*.py"):
        for call in calls(path):
            for argument in call.keywords:
                if argument.arg in SHOWN and isinstance(argument.value, ast.Constant | ast.JoinedStr):
                    assert ast.literal_eval(argument.value) in NAMES, f"{path.name}:{call.lineno}"


def error_names():
    """The classes of errors.py, and what tells a user something besides."""
    tree = ast.parse((PACKAGE / "core" / "errors.py").read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return classes - {"CancelledError"} | {"Note"}  # ended by the user: nothing is told


FOR_PROGRAMMERS = {"uni_pc_fm.py", "k_diffusion_hunyuan.py", "planning.py", "beside.py", "instances.py"}
"""Where errors are met only by who calls the functions, and run_gradio.sh, which speaks English."""


def test_what_a_user_is_told_is_a_message():
    names = error_names()
    for path in PACKAGE.rglob("*.py"):
        for call in calls(path) if path.name not in FOR_PROGRAMMERS else ():
            if called(call) in names and call.args:
                plain = isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)
                assert not plain, f"{path.name}:{call.lineno}"


def test_a_message_is_english_until_somebody_reads_it():
    german = Language("de", {"{n:.1f} of {what}": "{what}: {n:.1f}", "files": "Dateien"})
    message = Message("{n:.1f} of {what}", n=2, what=Message("files"))
    assert message == "2.0 of files"
    assert ENGLISH(message) == message
    assert german(message) == "Dateien: 2.0"
    assert german(str(UnknownJobError(message))) == "Dateien: 2.0"
    assert german("{n:.1f} of {what}", n=2, what="{n}") == "{n}: 2.0"
    assert german("unknown {here}") == "unknown {here}"
    assert orjson.loads(orjson.dumps(message)) == message
    for same in (copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert (same, german(same)) == (message, "Dateien: 2.0")


def test_messages_in_turn_are_translated_each():
    german = Language("de", {"One.": "Eins.", "{n} two.": "{n} zwei."})
    both = join_sentences([Message("One."), Message("{n} two.", n="{x}")])
    assert (both, german(both)) == ("One. {x} two.", "Eins. {x} zwei.")
    assert Language("ja", {"One.": "いち。", "{n} two.": "{n} に。"})(both) == "いち。{x} に。"


@pytest.mark.parametrize(
    ("header", "tag"),
    [
        ("zh-TW,zh;q=0.9,en-US;q=0.8,en;q=0.7", "zh-TW"),
        ("zh-tw", "zh-TW"),
        ("zh-HK", "zh-TW"),
        ("zh-Hant-MO", "zh-TW"),
        ("zh-Hant", "zh-TW"),
        ("zh-CN,zh;q=0.9", "zh-CN"),
        ("zh-Hans-HK", "zh-CN"),
        ("zh-SG", "zh-CN"),
        ("zh", "zh-CN"),
        ("ja", "ja"),
        ("ja-JP,en;q=0.5", "ja"),
        ("de-DE,de;q=0.9,ja;q=0.5,en;q=0.3", "ja"),
        ("en;q=0.2, zh-TW;q=0.7", "zh-TW"),
        ("en-GB,zh-TW", "en"),
        ("ja;q=0, en", "en"),
        ("de", "en"),
        ("*", "en"),
        ("", "en"),
        ("zh-TW;q=much, ja", "ja"),
        (";;;,,=", "en"),
    ],
)
def test_a_browser_gets_the_language_it_asks_for(header, tag):
    assert preferred(header) == tag


WORDS = {
    "en": "What should happen?",
    "zh-TW": "想讓畫面發生什麼？",
    "zh-CN": "想让画面发生什么？",
    "ja": "どんな動きにしますか？",
}


@pytest.mark.slow
@pytest.mark.parametrize(("served", "fallback"), [(list(LANGUAGES), "en"), (["ja"], "ja")])
def test_one_address_serves_every_language(tmp_path, served, fallback):
    with serve_page(tmp_path, languages=served) as page:
        for asked in (*LANGUAGES, None):
            headers = {"Accept-Language": asked} if asked else {}
            config = httpx.get(f"{page.url}/config", headers=headers, timeout=60).json()
            labels = {component["props"].get("label") for component in config["components"]}
            assert labels & set(WORDS.values()) == {WORDS[asked if asked in served else fallback]}
