from __future__ import annotations

import pytest

from promptfed.errors import ConfigError
from promptfed.readers.option_file import option_lines


def test_the_filled_lines_of_a_file_are_read(tmp_path):
    (tmp_path / "pool.txt").write_text("one\n\n  two\r\n")
    assert option_lines("prompts", f"file:{tmp_path / 'pool.txt'}") == ["one", "  two"]


def test_a_file_that_is_not_there_is_named_with_its_option(tmp_path):
    with pytest.raises(ConfigError, match=r"^questions 'file:.*none.txt' cannot be read: "):
        option_lines("questions", f"file:{tmp_path / 'none.txt'}")
