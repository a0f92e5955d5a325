"""Write docs/configuration.md and the table that shells complete from anew, from the models that define the options.

python scripts/make_configuration_page.py
"""

from __future__ import annotations

from pathlib import Path

from promptfed.cli import app
from promptfed.commands.completion_data import FILE
from promptfed.commands.completion_table import as_text, completion_table
from promptfed.commands.configuration_page import configuration_page
from promptfed.commands.help_page import build_command

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

if __name__ == "__main__":
    PAGE.write_text(configuration_page(), encoding="utf-8")
    FILE.write_text(as_text(completion_table(build_command(app))), encoding="utf-8")
    print(PAGE, FILE, sep="\n")
