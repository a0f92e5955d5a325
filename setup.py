"""Find the packages of this checkout. Everything else about the package is in pyproject.toml."""

from setuptools import find_packages, setup

HOMES = {"promptfed": "promptfed", "promptfed.tasks": "tasks", "promptfed.blackbox": "blackbox"}
"""Package -> its folder: tasks/ and blackbox/ stand at the top of the checkout and are installed inside promptfed."""

INNER = {f"{home}.{inner}" for home, folder in HOMES.items() for inner in find_packages(folder)}

setup(packages=sorted({*HOMES, *INNER}), package_dir=HOMES)
