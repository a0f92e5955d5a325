"""Charts of the reports, drawn as SVG by code of this folder: lines, bars with intervals, heat maps, scatter plots.

A chart has a text alternative that says what it shows. Its colours are CSS variables (``colours.css``), so that it
follows the light or dark page that it stands in; every series also has a dash and a marker of its own. Nothing in a
chart runs or loads anything.
"""
