"""How `make docs` turns these pages into a site."""

from importlib.metadata import version as installed

project = "celery-perpetual"
author = "celery-perpetual contributors"
version = release = installed("celery-perpetual")

extensions = ["myst_parser"]
# Headings get the anchors that they have where the sources are browsed.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"celery-perpetual {version}"
