"""kitlib.tools.result_tables: the pages have what `kit docs` would write; marks that are missing are named."""

import pytest

from kitlib.data.files import ROOT
from kitlib.tools import result_tables


@pytest.mark.parametrize("name", result_tables.PAGES)
def test_the_pages_are_what_the_command_would_write(name):
    text, blocks = (ROOT / name).read_text(), result_tables.PAGES[name]
    assert text == result_tables.filled(text, blocks), f"{name} is behind: kit docs"
    emptied = result_tables.filled(text, dict.fromkeys(blocks, str))
    assert len(emptied) < len(text) and result_tables.filled(emptied, blocks) == text


def test_a_page_without_its_marks():
    with pytest.raises(ValueError, match="no marks <!-- some scores -->"):
        result_tables.filled("<!-- scores -->\n\n<!-- end of scores -->", {"some scores": str})
