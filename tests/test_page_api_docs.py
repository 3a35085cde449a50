"""docs/api.md: its example is run as it stands, and its table names every setting that there is."""

import re
from pathlib import Path

import av
import pytest

from diffusers_helper.core.plan import END, START
from diffusers_helper.gradio.inputs import SETTINGS
from tests.fakes import LION, serve_page

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_makes_its_video(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "last.jpg"):
        (tmp_path / name).write_bytes(LION.read_bytes())
    with serve_page(tmp_path / "server") as page:
        code = example.replace("http://127.0.0.1:7860", page.url).replace("time.sleep(2)", "time.sleep(0.1)")
        exec(code, {})
        [job] = page.run.jobs
        assert job.inputs.pictures.keys() == {START, END}
        assert (job.request.shape, job.request.sections, len(job.request.timed_prompts)) == ("16:9", 2, 2)
    video = capsys.readouterr().out.splitlines()[-1]
    assert tmp_path / "videos" in Path(video).parents
    with av.open(video) as file:
        assert sum(1 for _ in file.decode(video=0)) == 73


@pytest.mark.parametrize("name", [*SETTINGS, "end_photo"])
def test_the_table_has_every_setting(name):
    first_cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in cell for cell in first_cells)
