import pytest

from promptfed.errors import FormatError
from promptfed.readers import text
from promptfed.readers.text import filled_lines, read_text, text_lines

WORDS = "première\r\n二番目\r\n\r\nlast 😀"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_that_are_read(tmp_path, encoding):
    path = tmp_path / "words.txt"
    path.write_bytes(WORDS.encode(encoding))
    assert read_text(path) == WORDS
    assert list(text_lines(path)) == WORDS.splitlines(keepends=True)
    assert filled_lines(path) == ["première", "二番目", "last 😀"]


def test_lines_of_old_macs(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"one\rtwo\r\rthree")
    assert filled_lines(tmp_path / "words.txt") == ["one", "two", "three"]


def test_only_the_first_mark_is_dropped_and_only_line_ends_end_lines(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff\ufeffa\x0bb\u2028c\n\ufeffd".encode())
    assert list(text_lines(path)) == ["\ufeffa\x0bb\u2028c\n", "\ufeffd"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("first\nété".encode("latin-1"), "not UTF-8: byte 0xe9 at place 6 of the file"),
        (b"\xef\xbb\xbfok\nab\xff", "byte 0xff at place 8"),
        ("abc".encode("utf-16-le"), "NUL byte at place 1"),
        (b"PK\x03\x04\x00\x00", "NUL byte at place 4"),
        ("abc".encode("utf-32"), "UTF-32: save it as UTF-8"),
        ("abc".encode("utf-16") + b"\x00", "damaged UTF-16"),
        ("a\0b".encode("utf-16"), "NUL"),
        (b"\xff\xfe\x00\xd8a\x00", "damaged UTF-16"),
    ],
)
def test_other_encodings_are_refused_with_the_place(tmp_path, content, reason):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason) as caught:
        read_text(path)
    assert "words.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_without_end_and_a_long_file_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "words.txt"
    monkeypatch.setattr(text, "LONGEST_LINE", 10)
    for content in (b"x" * 11, ("x" * 11).encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="a line of more than 10"):
            read_text(path)
    path.write_bytes(b"x\n" * 10)
    assert len(read_text(path, 20)) == 20
    with pytest.raises(FormatError, match="more than the 19 bytes"):
        read_text(path, 19)
