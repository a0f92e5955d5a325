import os
import warnings
import zipfile

import pytest
import torch

from promptfed.errors import FormatError
from promptfed.readers.torch_files import named_tensors, read_torch, state_dicts

LIMIT = 10**8
NEW_OR_OLD = pytest.mark.parametrize("new", [True, False], ids=["archive", "legacy"])


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.rest = torch.nn.ModuleList([torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)])
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.sizes = [1, 2]

    def forward(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x * self.scale


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@NEW_OR_OLD
def test_state_dicts_and_plain_values(tmp_path, new):
    layers, path = Layers(), tmp_path / "x.pt"
    rest = {"epoch": 3, "loss": 0.5, "names": ["é", ("b", None)], "done": True, "raw": b"\x00\xff"}
    torch.save({"state_dict": layers.state_dict(), **rest}, path, _use_new_zipfile_serialization=new)
    found = read_torch(path, LIMIT)
    assert same(found.pop("state_dict"), layers.state_dict())
    assert found == rest


@NEW_OR_OLD
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool],
)
def test_views_of_every_type(tmp_path, new, dtype):
    whole = torch.arange(12).reshape(3, 4).to(dtype)
    tensors = {"t": whole.t(), "part": whole[1:, 2:], "one": whole[0, 0], "none": whole[:0], "again": whole}
    torch.save(tensors, tmp_path / "x", _use_new_zipfile_serialization=new)
    assert same(read_torch(tmp_path / "x", LIMIT), tensors)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_archive_gives_its_tensors_and_runs_nothing(tmp_path, how):
    layers = Layers().eval()
    with warnings.catch_warnings(action="ignore"):
        made = torch.jit.script(layers) if how == "script" else torch.jit.trace(layers, torch.ones(1, 3))
        made.save(str(tmp_path / "x.pt"))
    module = read_torch(tmp_path / "x.pt", LIMIT)
    assert same(named_tensors(module), layers.state_dict())
    assert same(next(iter(state_dicts(module))), layers.state_dict())


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def bad_values():
    yield "expand", {"a": torch.zeros(1).expand(3 * 10**9)}, "more values than the 1 that"
    yield "expand rows", {"state_dict": {"a": torch.zeros(5).expand(10**9, 5)}}, r"\(1000000000, 5\) has more values"
    shared = torch.zeros(10**6)
    yield "many views", {str(i): shared[i:] for i in range(999)}, "bytes together"
    yield "meta", {"a": torch.empty(10**10, device="meta")}, "_rebuild_meta_tensor"
    yield "sparse", {"a": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor"
    yield "complex", {"a": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage"
    yield "float8", {"a": torch.ones(2).to(torch.float8_e4m3fn)}, "no plain tensor"
    yield "module", torch.nn.Linear(2, 2), "Linear, which is no plain tensor and is never opened"
    yield "code", {"a": Runs()}, "system, which is no plain tensor"


@NEW_OR_OLD
@pytest.mark.parametrize(("value", "reason"), [pytest.param(v, r, id=i) for i, v, r in bad_values()])
def test_tensors_without_memory_of_their_own_are_refused(tmp_path, monkeypatch, new, value, reason):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        torch.save(value, "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(FormatError, match=reason) as caught:
        read_torch(tmp_path / "x.pt", LIMIT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


PROGRAMS = {
    "memo of gigabytes": b"\x80\x02r\xff\xff\xff\x7f.",
    "bytes of gigabytes": b"\x80\x05\x96" + (10**10).to_bytes(8, "little") + b".",
    "text of gigabytes": b"\x80\x04\x8d" + (10**10).to_bytes(8, "little") + b".",
    "key of a deep tuple": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "eval": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    "attribute of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "call of a value": b"\x80\x02K\x01)R.",
    "class by another way": b"\x80\x02(ios\nsystem\n.",
    "long integer": b"\x80\x02I" + b"9" * 6000 + b"\n.",
    "no end": b"\x80\x02}",
    "item of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "too long": b"\x80\x02" + b"N0" * 500_000 + b"N.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_do_other_things_are_refused(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", program)
    with pytest.raises(FormatError, match=r"x\.pt' is not a usable file of torch"):
        read_torch(tmp_path / "x.pt", LIMIT)


def test_damaged_archives_are_refused(tmp_path):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"a": torch.ones(100)}, good)
    content = good.read_bytes()
    with zipfile.ZipFile(good) as archive, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    squeezed = bad.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(torch.ones(100).numpy().tobytes()) + 7] ^= 1
    front = content[:4] + content[400:]  # the list of files points before the beginning
    for damaged in (b"", b"PK\x03\x04", content[:-30], content[:200], squeezed, bytes(flipped), b"x" * 1000, front):
        bad.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"bad\.pt' is not a usable file of torch"):
            read_torch(bad, LIMIT)
    with pytest.raises(FormatError, match="at most 100 are read"):
        read_torch(good, 100)


def test_where_a_state_dict_usually_stands():
    tensors = {"a": torch.ones(1)}
    for value in (tensors, {"state_dict": tensors, "epoch": 1}, {"model": tensors}, {"module": tensors}):
        assert [dict(found) for found in state_dicts(value)] == [tensors]
    assert not list(state_dicts([tensors]))
    assert not list(state_dicts({"x": 1}))
