"""Tables and lines as people and spreadsheets write them, and as they come out wrong."""

import json

import pytest

from diffusers_helper.commands.batch_rows import read_csv, read_json_lines
from diffusers_helper.core.errors import SettingsError


def shown(rows):
    return [(row.line, row.problem or dict(row.fields)) for row in rows]


def prompts(text):
    return [(row.line, row.problem or row.fields.get("prompt")) for row in read_csv(text)]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nphoto;prompt;seconds\r\np.jpg;pan left;1,2\r\n",
        '"sep=\t"\nphoto\tprompt\tseconds\np.jpg\tpan left\t1,2\n',
        "photo;prompt;seconds\np.jpg;pan left;1,2",
        "photo\tprompt\tseconds\np.jpg\tpan left\t1,2",
        "photo,prompt,seconds,\np.jpg,pan left,1.2,\n,,,\n\n",
        " Photo , PROMPT,Seconds \np.jpg,pan left,1.2\n",
        "\nphoto,prompt,seconds,,\rp.jpg,pan left,1.2\r",
    ],
    ids=["sep", "sep tab", "decimal comma", "tabs", "comma at the end", "capitals and spaces", "old line ends"],
)
def test_what_spreadsheets_write_is_taken(text):
    [row] = read_csv(text)
    assert (row.fields, row.problem) == ({"photo": "p.jpg", "prompt": "pan left", "seconds": "1.2"}, "")


def test_settings_of_two_words_and_commas_that_are_none_of_numbers():
    [row] = read_csv("photo;Guidance Scale;cfg-scale;prompt\np.jpg;3,5;1,5;1,5\n")
    assert row.fields == {"photo": "p.jpg", "guidance_scale": "3.5", "cfg_scale": "1.5", "prompt": "1,5"}


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c"])
def test_a_sign_that_some_take_for_the_end_of_a_line_stays_in_its_cell(sign):
    assert prompts(f"photo,prompt\np.jpg,pan left{sign}slowly\np.jpg,zoom in\n") == [
        (2, f"pan left{sign}slowly"),
        (3, "zoom in"),
    ]


def test_a_cell_of_several_lines_is_one_row_at_its_first_line():
    text = 'photo,prompt\na.jpg,"Say ""hi"",\n\nthen wave"\nb.jpg,5" of snow\nc.jpg,""\n'
    assert prompts(text) == [(2, 'Say "hi",\n\nthen wave'), (5, '5" of snow'), (6, None)]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('p.jpg,"pan left', "never closed"),
        ('p.jpg,"pan" left', "do not fit"),
        ("p.jpg", "as many cells"),
        ("p.jpg,a,b", "as many cells"),
        (",a", "names no photo"),
        ("p\0.jpg,a", "photo has a character that is no text"),
        (f"p.jpg,{'x' * 131_073}", "longer than 131,072 characters"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_row_is_told_with_its_line_and_all_others_are_there(bad, told):
    rows = [f"{number}.jpg,zoom {number}" for number in range(2000)]
    found = list(read_csv("\n".join(["photo,prompt", rows[0], bad, *rows[1:]])))
    assert [row.line for row in found if row.problem] == [3]
    assert told in found[1].problem
    assert [row.fields.get("prompt") for row in found if not row.problem] == [f"zoom {n}" for n in range(2000)]


def test_every_open_quote_is_told_though_the_next_one_closes_it():
    text = 'photo,prompt\na.jpg,"one\nb.jpg,"two\n"c.jpg",three\nd.jpg,"four\n'
    found = prompts(text)
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert found[2] == (4, "three")
    assert all("quote" in said for line, said in found if line != 4)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[" * 100_000, "no JSON object"),
        ('{"photo": ' * 100_000, "no JSON object"),
        ('{"photo": "p.jpg", "seed": ' + "9" * 5000 + "}", "no JSON object"),
        ('{"photo": "p\\u0000.jpg"}', "photo has a character"),
        ('{"photo": "p\\ud800.jpg"}', "photo has a character"),
        ('{"photo": "p.jpg", "prompt": "half \\ud83d"}', "prompt has a character"),
        ('{"photo": "p.jpg", "seed": 1, "seed": 2}', "'seed' is there twice"),
        ('{"photo": "p.jpg", "Seed": 1}', "'Seed' is no setting. It takes photo and"),
        ('{"photo": ["p.jpg"]}', "names no photo"),
    ],
    ids=lambda value: value[:30],
)
def test_a_bad_line_is_told_and_the_next_one_is_read(line, told):
    bad, good = read_json_lines(f'{line}\n{{"photo": "p.jpg", "prompt": "a\u2028b"}}\n')
    assert (bad.line, dict(bad.fields)) == (1, {})
    assert told.replace("no JSON", "not a JSON") in bad.problem
    assert (good.line, good.fields) == (2, {"photo": "p.jpg", "prompt": "a\u2028b"})


def test_a_photo_may_have_the_bytes_of_a_name_that_is_no_unicode():
    [row] = read_json_lines(json.dumps({"photo": "caf\udce9.jpg"}))
    assert row.fields["photo"] == "caf\udce9.jpg"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("photo,prompt,PHOTO\n", "line 1: the column 'photo' is there twice"),
        ("photo,,prompt\n", "line 1: '' is no setting"),
        ("\n\nprompt\n", "line 3: it names no photo"),
        ('photo,"prompt\nx,y\n', "line 1: it has a quote"),
        ("", "line 1: it names no photo"),
    ],
)
def test_columns_that_make_no_sense_are_told_at_once(text, told):
    with pytest.raises(SettingsError, match=told):
        list(read_csv(text))


def test_many_open_quotes_are_told_each():
    rows = list(read_csv("photo,prompt\n" + 'p.jpg,"pan left\n' * 20_000))
    assert len(rows) == 20_000
    assert all(row.problem for row in rows)
