import codecs
import os

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.media.text_files import MAX_BYTES, decoded, read_text, require_encoding

LONG = {
    "big5": "鏡頭慢慢向左平移，一隻獅子走進畫面，天空變暗，雨開始落下。女孩微笑，轉頭看向鏡頭，舞者慢慢轉身。",
    "gb18030": "镜头慢慢向左平移，一只狮子走进画面，天空变暗，雨开始落下。夕阳下的海浪拍打岩石，海鸥飞过。",
    "cp932": "カメラがゆっくり左に動き、ライオンが歩いてくる。空が暗くなり、雨が降り始める。",
    "euc_jp": "カメラがゆっくり左に動き、ライオンが歩いてくる。空が暗くなり、雨が降り始める。",
    "cp949": "카메라가 천천히 왼쪽으로 움직이고, 소녀가 웃으며 고개를 돌린다.",
    "cp1252": "Die Tänzerin dreht sich langsam nach links und lächelt; größer wird das Café.",
    "cp1250": "Žena se pomalu otočí doleva a usmívá se na kameru. Dívka běží přes louku.",
    "cp1251": "Камера медленно движется влево, лев идёт. Девушка улыбается.",
}
SHORT = {
    "big5": ["向左平移", "推近", "女孩微笑，轉頭看向鏡頭"],
    "gb18030": ["向左平移", "推近", "猫咪打了一个大哈欠"],
    "cp932": ["左にパン", "ズームイン", "手を振る"],
    "cp1252": ["Café", "Größer", "Zoom à gauche", "naïve", "the lion’s mane", "Look “left” – slowly"],
    "cp1250": ["Dívka běží", "Zażółć gęślą jaźń"],
    "cp1251": ["влево", "лев идёт"],
}


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
@pytest.mark.parametrize("text", ["pan left", "", "向左平移 🦁 Größe"])
def test_a_mark_at_the_start_says_the_encoding_and_is_no_part_of_the_text(encoding, mark, text):
    assert decoded(mark + text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(encoding):
    assert decoded("photo,prompt\na.jpg,慢慢\n".encode(encoding)) == "photo,prompt\na.jpg,慢慢\n"


@pytest.mark.parametrize("text", ["a\0.jpg,pan left slowly", "aa\0.jpg,pan left slowly", "\0"])
def test_a_single_zero_makes_no_utf_16(text):
    assert decoded(text.encode()) == text


def read_or_told(file):
    try:
        return read_text(file)
    except SettingsError as error:
        return str(error).partition(" Save it as UTF-8")[0]


@pytest.mark.parametrize("encoding", LONG)
def test_an_older_encoding_is_read_rightly_or_refused_with_the_file(encoding, tmp_path):
    """Which of the two it is belongs to the detector; a wrong text never comes out, whatever it is."""
    file = tmp_path / "a.txt"
    texts = [LONG[encoding], *SHORT.get(encoding, ())]
    for text in [*texts, *(f"photo,prompt\na.jpg,{text}\nb.jpg,{text}\n" for text in texts)]:
        file.write_bytes(text.encode(encoding))
        assert read_or_told(file) in (text, f"It is not sure in which encoding {file} is written.")
        assert read_text(file, encoding) == text


@pytest.mark.parametrize("encoding", ["gb18030", "cp932", "cp1251"])
def test_what_can_be_nothing_else_is_detected(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes(LONG[encoding].encode(encoding))
    assert read_text(tmp_path / "a.txt") == LONG[encoding]


@pytest.mark.parametrize("data", [b"\xff", b"\x00\xd8\x00", codecs.BOM_UTF16_LE + b"\x00\xd8", b"\xe9\x00\xff\x00\x01"])
def test_what_is_no_text_is_refused(data, tmp_path):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(SettingsError, match=r"a\.txt.*UTF-8.*--encoding"):
        read_text(tmp_path / "a.txt")


def test_the_encoding_that_is_named_has_to_fit(tmp_path):
    (tmp_path / "a.txt").write_bytes("Größe".encode("cp1252"))
    with pytest.raises(SettingsError, match="encoding"):
        read_text(tmp_path / "a.txt", "utf-8")
    assert require_encoding("big5") == "big5"
    for name in ("klingon", "base64", "", "utf-8\0"):
        with pytest.raises(SettingsError, match="no such encoding"):
            require_encoding(name)


def test_only_files_are_read_and_none_without_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(SettingsError, match=r"pipe\.txt cannot be read: it is a pipe"):
        read_text(tmp_path / "pipe.txt")
    with pytest.raises(SettingsError, match="cannot be read: it is a folder"):
        read_text(tmp_path)
    with open(tmp_path / "long.txt", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(SettingsError, match="longer than 50 MB"):
        read_text(tmp_path / "long.txt")
