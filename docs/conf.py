"""How the site is built: sphinx-build -W --keep-going -b html docs site (pip install '.[docs]')."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "promptfed"
release = version = installed_version("promptfed")
html_title = f"promptfed {release}"
copyright = "the promptfed authors, Apache-2.0"

extensions = [
    "generated_pages",
    "repository_links",
    "own_host",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["extensions", "static", "configs"]

# Pages are plain Markdown that other readers show as well; headings have the anchors that GitHub gives them.
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may begin a section two levels down

nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_ipywidgets_js = {}  # they come from a CDN; the progress bars are shown as text
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_numpy_docstring = False

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#7a3b00", "color-brand-content": "#8a4300"},
    "dark_css_variables": {"color-brand-primary": "#ffb57a", "color-brand-content": "#ffb57a"},
}
