"""Reports: tables, plots, HTML pages and live progress."""
