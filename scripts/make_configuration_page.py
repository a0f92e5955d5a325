"""Write docs/configuration.md anew from the models that define the options.

python scripts/make_configuration_page.py
"""

from __future__ import annotations

from pathlib import Path

from promptfed.commands.configuration_page import configuration_page

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

if __name__ == "__main__":
    PAGE.write_text(configuration_page(), encoding="utf-8")
    print(PAGE)
