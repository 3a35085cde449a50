"""Where the settings of a process come from, in which order, and what is said of those that are wrong."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from diffusers_helper.api.options import config_from
from diffusers_helper.app import launch
from diffusers_helper.commands import cli
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import LANGUAGES
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.service.config import RuntimeConfig, names_of, settings_file
from diffusers_helper.service.logs import LEVELS
from diffusers_helper.service.options import add_options, config_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch, kept_environment):
    """`framepack.toml` of this test, in its folder of data; the process's environment stays as it is."""
    for name in [name for name in os.environ if name.startswith("FRAMEPACK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    return tmp_path / "framepack.toml"


def parsed(*argv):
    add_options(parser := argparse.ArgumentParser())
    return config_of(parser.parse_args(argv))


def test_each_source_counts_before_the_next(file, monkeypatch):
    assert parsed().attention == "auto"
    file.write_text('attention = "flash"\n')
    assert parsed().attention == "flash"
    monkeypatch.setenv("FRAMEPACK_ATTENTION", "sage")
    assert parsed().attention == "sage"
    assert parsed("--attention", "sdpa").attention == "sdpa"
    monkeypatch.setenv("FRAMEPACK_ATTENTION", "")
    assert parsed().attention == "flash"


@pytest.mark.parametrize("name", [name for name in RuntimeConfig.model_fields if name != "data"])
def test_every_setting_has_an_option_a_variable_and_a_key(name, file, monkeypatch):
    default = getattr(RuntimeConfig.load(), name)
    others = {"device": "cpu", "weights": "fp8", "language": "ja", "log_level": "error", "host_name": ("a", "b")}
    others |= {"notify_url": "http://127.0.0.1/x", "notify_form": "ntfy"}
    others["lora_folders"] = (Path("/a"), Path("/b"))
    others |= {"gpus": (0, 1), "parallel": "stagger", "stagger": 7}
    other = others.get(
        name, not default if isinstance(default, bool) else 7 if isinstance(default, float | int) else "/x"
    )
    between = os.pathsep if name == "lora_folders" else ","
    text = between.join(map(str, other)) if isinstance(other, tuple) else str(other)
    monkeypatch.setenv(f"FRAMEPACK_{name.upper()}", text)
    by_variable = getattr(RuntimeConfig.load(), name)
    monkeypatch.delenv(f"FRAMEPACK_{name.upper()}")
    file.write_text(f"{name} = {str(other).lower() if isinstance(other, bool | int) else repr(text)}\n")
    by_key = getattr(RuntimeConfig.load(), name)
    file.unlink()
    option = "--loras" if name == "lora_folders" else f"--{name}".replace("_", "-")
    no_option = option.replace("--", "--no-", 1)
    words = {True: [option], False: [no_option]}[other] if isinstance(other, bool) else [option, text]
    if isinstance(other, tuple) and name != "gpus":  # one option has all of these
        words = [word for one in other for word in (option, str(one))]
    by_option = getattr(config_of(launch._parser(ORIGINAL).parse_args(words)), name)
    assert by_variable == by_key == by_option != default
    assert str(by_option) == str(other) or by_option == other


def test_what_a_variable_chose_can_be_taken_back_on_the_command_line(monkeypatch):
    monkeypatch.setenv("FRAMEPACK_OFFLINE", "1")
    monkeypatch.setenv("FRAMEPACK_METADATA", "no")
    assert (parsed().offline, parsed().metadata) == (True, False)
    config = parsed("--no-offline", "--metadata")
    assert (config.offline, config.metadata) == (False, True)


def test_the_file_is_in_the_folder_of_data_and_its_folders_start_there(file, tmp_path, monkeypatch):
    file.write_text('outputs = "results"\ncache = "~/cache"\nauth = "/etc/users"\n')
    config = RuntimeConfig.load()
    assert (config.folders.outputs, config.auth) == (tmp_path / "results", Path("/etc/users"))
    assert config.folders.cache == Path.home() / "cache"
    assert (config.folders.logs, settings_file()) == (tmp_path / "logs", file)
    file.write_text('lora_folders = ["films", "~/loras", "/srv/loras"]\n')
    assert RuntimeConfig.load().folders.loras == (
        tmp_path / "films",
        Path.home() / "loras",
        Path("/srv/loras"),
    )
    other = RuntimeConfig.load(data=str(tmp_path / "other"))
    assert other.folders.outputs == tmp_path / "other" / "outputs"
    assert RuntimeConfig.load(lora_folders=tmp_path / "one").folders.loras == (tmp_path / "one",)


@pytest.mark.parametrize(
    ("option", "variable", "text", "told"),
    [
        ({"device": "tpu"}, {}, "", "--device: should be one of 'auto', 'cpu', 'cuda', 'mps' or 'xpu'."),
        ({}, {"DEVICE": "tpu"}, "", "FRAMEPACK_DEVICE: should be one of 'auto', 'cpu', 'cuda', 'mps' or 'xpu'."),
        ({}, {}, 'device = "tpu"', "{file}, device: should be one of 'auto', 'cpu', 'cuda', 'mps' or 'xpu'."),
        ({}, {"PORT": "tcp://10.0.0.1:7860"}, "", "FRAMEPACK_PORT: should be a whole number."),
        ({}, {"PORT": "70000"}, "", "FRAMEPACK_PORT: should be at most 65535."),
        ({}, {"OFFLINE": "perhaps"}, "", "FRAMEPACK_OFFLINE: should be true or false."),
        ({}, {"OUTPUTS": "~nosuchuser/x"}, "", "FRAMEPACK_OUTPUTS: '~nosuchuser/x' is no folder"),
        ({}, {"DATA": "~nosuchuser/x"}, "", "FRAMEPACK_DATA: '~nosuchuser/x' is no folder"),
        ({}, {"LANGUAGE": "tlh"}, "", "FRAMEPACK_LANGUAGE: should be one of 'en', 'zh-TW', 'zh-CN' or 'ja'."),
        ({}, {}, "stagger = true", "{file}, stagger: should be a number."),
        ({}, {}, "port = true", "{file}, port: should be a number."),
        ({}, {}, "stagger = 1.5", "{file}, stagger: should be a whole number."),
        ({}, {}, "gpus = [0.5, 1.5]", "{file}, gpus: give two or more GPUs by their numbers"),
        ({}, {}, "gpus = [true, false]", "{file}, gpus: give two or more GPUs by their numbers"),
        ({}, {}, "gpus = 2", "{file}, gpus: give two or more GPUs by their numbers"),
        ({}, {"GPUS": "0_1,2"}, "", "FRAMEPACK_GPUS: give two or more GPUs by their numbers"),
        ({}, {"GPUS": "0,-1"}, "", "FRAMEPACK_GPUS: give two or more GPUs by their numbers"),
        ({}, {"GPUS": "0," + "9" * 5000}, "", "FRAMEPACK_GPUS: give two or more GPUs by their numbers"),
        ({}, {"GPUS": "0"}, "", "FRAMEPACK_GPUS: give two or more GPUs by their numbers"),
        ({}, {}, "compile = 7", "{file}, compile: should be true or false."),
        ({}, {}, "session_hours = nan", "{file}, session_hours: should be"),
        ({}, {}, "outputs = 7", "{file}, outputs: "),
        ({}, {}, "lora_folders = [7]", "{file}, lora_folders: "),
        ({"lora_folders": ["~nosuchuser/x"]}, {}, "", "--loras: '~nosuchuser/x' is no folder"),
        ({}, {}, 'colour = "red"', "{file}, colour: is no setting."),
        ({}, {}, "[page]\nport = 1", "{file}, page: is no setting."),
        ({}, {}, 'data = "elsewhere"', "{file}, data: this file is in that folder"),
        ({}, {}, "offline = yes", "{file} cannot be read: "),
        ({}, {"WEIGHTS": "fp4"}, "port = -1", "FRAMEPACK_WEIGHTS: should be one of 'exact' or 'fp8'."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_sentence_that_names_it_and_its_source(option, variable, text, told, file, monkeypatch):
    file.write_text(text)
    for name, value in variable.items():
        monkeypatch.setenv(f"FRAMEPACK_{name}", value)
    with pytest.raises(SettingsError, match=re.escape(told.format(file=file))) as refused:
        RuntimeConfig.load(**option)
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_told_at_once(file, monkeypatch):
    file.write_text("port = -1\n")
    monkeypatch.setenv("FRAMEPACK_WEIGHTS", "fp4")
    with pytest.raises(SettingsError, match=rf"{file}, port: .*FRAMEPACK_WEIGHTS: "):
        RuntimeConfig.load()


def test_a_file_that_is_no_text_or_not_for_reading(file):
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=f"{file} cannot be read"):
        RuntimeConfig.load()
    file.unlink()
    file.mkdir()
    assert RuntimeConfig.load().port == 7860  # a folder is no file


@pytest.mark.parametrize("program", ["generate", "page"])
def test_the_programs_end_with_the_code_of_wrong_settings(program, file, capsys):
    file.write_text('device = "tpu"\n')
    run = {"generate": lambda: cli.main(["generate", "x.jpg", "x"]), "page": lambda: launch.main(ORIGINAL, [])}[program]
    assert run() == 2
    assert capsys.readouterr().err.startswith(f"{file}, device: should be one of")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ATTENTION", "none-such", "none-such"),
        ("MODELS", "/no/folder", "/no/folder"),
        ("DEVICE", "mps", "mps"),
        ("NAME_TEMPLATE", "{x}", "is no field"),
        ("OUTPUTS", "/dev/null/x", "/dev/null/x"),
    ],
)
def test_what_does_not_work_here_is_told_with_its_source(variable, value, told, monkeypatch):
    from diffusers_helper.app.program import Program

    with pytest.raises(SettingsError, match=told) as refused:
        Program(RuntimeConfig.load(**{"device": "cpu", "models": "tiny"} | {variable.lower(): value}), "f1")
    assert "comes from" not in str(refused.value)
    monkeypatch.setenv(f"FRAMEPACK_{variable}", value)
    given = {"device": "cpu", "models": "tiny"}
    given.pop(variable.lower(), None)
    with pytest.raises(SettingsError, match=rf"{told}.* The value comes from FRAMEPACK_{variable}\."):
        Program(RuntimeConfig.load(**given), "f1")


def test_a_variable_that_is_no_setting_is_a_line_in_the_log(monkeypatch, caplog):
    monkeypatch.setenv("FRAMEPACK_MODLES", "tiny")
    monkeypatch.setenv("FRAMEPACK_TORCH", "cpu")
    assert RuntimeConfig.load().models is None
    assert "FRAMEPACK_MODLES is no setting" in caplog.text
    assert "FRAMEPACK_TORCH" not in caplog.text


def test_settings_do_not_change():
    config = RuntimeConfig.load()
    with pytest.raises(ValidationError):
        config.device = "cpu"
    assert config.folders is config.folders


def test_the_class_takes_settings_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEPACK_LANGUAGE", "ja")
    config = config_from(models=None, outputs=tmp_path / "o", no_compile=True, metadata=False, device="cpu")
    assert (config.models, config.folders.outputs, config.compile, config.metadata) == (
        None,
        tmp_path / "o",
        False,
        False,
    )
    assert (config.device, config.language) == ("cpu", "ja")
    for wrong in ({"port": 1}, {"no_device": True}, {"no_colour": True}, {"_env_prefix": "X"}, {"folders": None}):
        with pytest.raises(TypeError, match=f"{min(wrong)!r}.*attention"):
            config_from(**wrong)
    with pytest.raises(SettingsError, match="--weights: should be one of"):
        config_from(weights="fp4")


@pytest.mark.parametrize("main", [["generate"], ["batch"], ["resume"], ["extend"], ["doctor"]])
def test_every_setting_is_told_in_help_with_its_own_words(main, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*main, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name in names_of("machine"):
        assert RuntimeConfig.model_fields[name].description.replace("- ", "-") in shown
    for value in (*LANGUAGES, *LEVELS):
        assert value in shown


@pytest.mark.slow
def test_settings_import_neither_torch_nor_gradio():
    code = (
        "import sys; from diffusers_helper.service.config import RuntimeConfig; RuntimeConfig.load(); "
        "print({'torch', 'gradio', 'numpy', 'huggingface_hub'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
