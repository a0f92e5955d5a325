"""Build the sdist and the wheel of this checkout so that everybody gets the same bytes.

python scripts/build_release.py dist           both files, and their SHA-256
python scripts/build_release.py dist --twice   and once more from another folder: they must be the same

The wheel is built from the sdist, and compared with the one that the checkout gives. Times come from SOURCE_DATE_EPOCH,
else from the last commit; modes and owners are set. It needs setuptools of pyproject.toml, and twine if it is to check
the files.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("__pycache__", "build", "dist", "runs", "site")
CALL = "import sys, setuptools.build_meta as backend; getattr(backend, sys.argv[1])(sys.argv[2])"


def main() -> None:
    """Build, check, and print the SHA-256 of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--twice", action="store_true", help="build again from another folder and compare")
    options = parser.parse_args()
    os.umask(0o022)
    os.environ["SOURCE_DATE_EPOCH"] = epoch = moment()
    options.out.mkdir(parents=True, exist_ok=True)
    built = build(options.out, int(epoch))
    if options.twice:
        with TemporaryDirectory(prefix="again-") as place:
            again = build(Path(place), int(epoch))
            differing = [one.name for one, two in zip(built, again, strict=True) if digest(one) != digest(two)]
        if differing:
            sys.exit(f"error: not reproducible: {', '.join(differing)}")
        print("built twice, with the same bytes")
    if importlib.util.find_spec("twine"):
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], check=True)
    for file in built:
        print(f"{digest(file)}  {file}")


def moment() -> str:
    """Return the time of all files, in seconds since 1970."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.exit("error: this is no git checkout: set SOURCE_DATE_EPOCH, the time of all files in seconds since 1970")
    return said.stdout.strip()


def build(out: Path, epoch: int) -> list[Path]:
    """Build both files in ``out``; the wheel of the sdist must be that of the checkout. Return them."""
    with TemporaryDirectory(prefix="release-") as place:
        source = Path(place) / "checkout"
        for path in sources():
            target = source / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target)
        settle(source, epoch)
        sdist = packed(backend("build_sdist", source, Path(place)), out, epoch)
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        unpacked = Path(place) / sdist.name.removesuffix(".tar.gz")
        settle(unpacked, epoch)
        wheel = backend("build_wheel", unpacked, out.resolve())
        direct = backend("build_wheel", source, Path(place))
        if digest(direct) != digest(wheel):
            sys.exit("error: the sdist lacks something: its wheel is not that of the checkout")
    return [sdist, wheel]


def sources() -> Iterator[Path]:
    """Yield the files of the checkout, relative to it: those that git knows, or all but what programs left there."""
    said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not said.returncode and said.stdout:
        yield from (Path(name) for name in said.stdout.split("\0") if name and (ROOT / name).is_file())
        return
    for path in sorted(ROOT.rglob("*")):
        inner = path.relative_to(ROOT)
        is_left = any(part in LEFT_OUT or part.startswith(".") or part.endswith(".egg-info") for part in inner.parts)
        if path.is_file() and not is_left:
            yield inner


def settle(folder: Path, epoch: int) -> None:
    """Give all files below ``folder`` the same modes and the same time."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (epoch, epoch))


def backend(hook: str, source: Path, out: Path) -> Path:
    """Call a hook of setuptools in ``source``; return the file that it makes in ``out``."""
    before = set(out.iterdir())
    done = subprocess.run([sys.executable, "-c", CALL, hook, str(out)], cwd=source, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {hook} failed:\n{done.stderr[-4000:]}")
    shutil.rmtree(source / "build", ignore_errors=True)
    suffix = ".whl" if "wheel" in hook else ".tar.gz"
    files = {path for path in out.iterdir() if path.name.endswith(suffix)}
    return (files - before or files).pop()


def packed(sdist: Path, out: Path, epoch: int) -> Path:
    """Write ``sdist`` anew into ``out``, sorted, with one time, plain modes and no owner."""
    content = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, member.size, epoch
            plain.mode = 0o755 if member.isdir() else 0o644
            new.addfile(plain, old.extractfile(member) if member.isfile() else None)
    target = out / sdist.name
    with target.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped:
        zipped.write(content.getvalue())
    return target


def digest(file: Path) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
