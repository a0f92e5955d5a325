import json

import pytest
import torch
from safetensors.torch import save, save_file

from promptfed.errors import FormatError
from promptfed.readers import tensors
from promptfed.readers.tensors import (
    LIBRARY_MODELS,
    MODELS,
    PROMPTS,
    TensorInfo,
    TensorLimits,
    parse_tensors,
    read_header,
    read_tensor_bytes,
    read_tensors,
    tensor_metadata,
)

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_type_that_promptfed_writes(dtype, tmp_path):
    given = {"a": torch.arange(6).reshape(2, 3).to(dtype), "one": torch.tensor(1).to(dtype), "none": torch.ones(0, 4)}
    content = save(given)
    (tmp_path / "x").write_bytes(content)
    for found in (parse_tensors(content), read_tensors(tmp_path / "x")):
        assert set(found) == set(given)
        for name, tensor in given.items():
            assert torch.equal(found[name], tensor)
            assert found[name].dtype == tensor.dtype
    assert read_header(tmp_path / "x")["none"] == TensorInfo("F32", (0, 4))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_other_types_are_refused_by_name(dtype):
    with pytest.raises(FormatError, match=r"tensor 'a' is of type (F8_E4M3|F8_E5M2|C64); convert it"):
        parse_tensors(save({"a": torch.zeros(3).to(dtype)}))


def test_the_header_of_a_model_of_another_library_may_name_types_that_are_not_decoded_here(tmp_path):
    save_file({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, tmp_path / "x")
    assert read_header(tmp_path / "x", LIBRARY_MODELS) == {"a": TensorInfo("F8_E4M3", (3,))}
    with pytest.raises(FormatError, match="type F8_E4M3"):
        read_header(tmp_path / "x", MODELS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (b"\xff" * 100, "header would have"),
        ((10**6).to_bytes(8, "little") + b"{}", "but 2 follow"),
        (packed(b"[]"), "not a JSON object"),
        (packed(b'{"a": '), "line 1"),
        (packed(b"{" + b'"a": {' * 1000), "nested deeper"),
        (packed(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', b"1234"), "key 'a' twice"),
        (packed({"a": entry("F4")}, b"1234"), "type F4"),
        (packed({"a": entry(["F32"])}, b"1234"), "is of type"),
        (packed({"a": entry(shape=[-1])}, b"1234"), "no usable shape"),
        (packed({"a": entry(shape=[True])}, b"1234"), "no usable shape"),
        (packed({"a": entry(shape=[1.0])}, b"1234"), "no usable shape"),
        (packed({"a": entry(shape=[1] * 99)}, b"1234"), "no usable shape"),
        (packed({"a": entry(shape=[2**40, 2**40])}, b"1234"), "has 4 bytes"),
        (packed({"a": entry(begin=4, end=0)}, b"1234"), "no usable data_offsets"),
        (packed({"a": entry(begin=1, end=5)}, b"12345"), "begins at byte 1"),
        (packed({"a": entry(), "b": entry()}, b"1234"), "begins at byte 0, not at 4"),
        (packed({"a": entry()}, b"12345"), "file holds 5"),
        (packed({"a": entry()}, b"123"), "file holds 3"),
        (packed({"a": {**entry(), "more": 1}}, b"1234"), "not described by"),
        (packed({"a": 3}), "not described by"),
        (packed({"__metadata__": {"a": 1}}), "metadata"),
        (packed({"__metadata__": 1}), "metadata"),
        (packed({"x" * 600: entry()}, b"1234"), "600 characters"),
        (packed({"\u202egnp": entry()}, b"1234"), r"called '\\u202egnp': a name is made of printable"),
        (packed({"\x1b[2J": entry()}, b"1234"), r"called '\\x1b\[2J'"),
        (packed({"a\nb": entry()}, b"1234"), r"called 'a\\x0ab'"),
        (packed(b'{"\\u0000": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"1234"), "NUL"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_in_one_line(content, reason, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        parse_tensors(content)
    for read in (read_tensors, read_header):
        with pytest.raises(FormatError, match=reason) as caught:
            read(tmp_path / "x")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [tensors.SMALL + 1, 3_000_000_000])
def test_a_large_file_that_is_not_what_its_header_says_is_not_read(tmp_path, monkeypatch, size):
    with (tmp_path / "x").open("wb") as file:
        file.write(packed({"a": entry()}))
        file.truncate(size)  # a sparse file, which takes no space
    with pytest.raises(FormatError, match="its tensors have 4 bytes"):
        read_tensor_bytes(tmp_path / "x")
    monkeypatch.setattr(tensors, "read_bytes", None)
    with pytest.raises(FormatError, match="its tensors have 4 bytes, but the file holds"):
        read_tensor_bytes(tmp_path / "x")


def test_bytes_of_a_sound_file_are_read_and_no_more_than_the_limit(tmp_path):
    content = save({"a": torch.zeros(5_000_000)})
    (tmp_path / "x").write_bytes(content)
    assert len(content) > tensors.SMALL
    assert read_tensor_bytes(tmp_path / "x") == content
    with pytest.raises(FormatError, match="at most 1,000 are read"):
        read_tensor_bytes(tmp_path / "x", 1_000)


def empty(count):
    return packed({f"t{i}": entry("U8", [0], 0, 0) for i in range(count)})


def test_too_many_tensors_are_refused(tmp_path):
    few = TensorLimits(header=10_000, tensors=100)
    assert len(parse_tensors(empty(100), few)) == 100
    (tmp_path / "x").write_bytes(empty(101))
    for read in (
        lambda: parse_tensors(empty(101), few),
        lambda: read_tensors(tmp_path / "x", limits=few),
        lambda: read_header(tmp_path / "x", few),
    ):
        with pytest.raises(FormatError, match="it holds 101 tensors; at most 100"):
            read()


def test_a_prompt_has_fewer_tensors_and_a_shorter_header_than_a_model():
    assert len(parse_tensors(empty(5_000))) == 5_000 == PROMPTS.tensors
    with pytest.raises(FormatError, match="it holds 5,001 tensors; at most 5,000"):
        parse_tensors(empty(5_001))
    assert len(parse_tensors(empty(5_001), MODELS)) == 5_001
    blanks = packed(b"{" + b" " * PROMPTS.header + b"}")
    with pytest.raises(FormatError, match="at most 1,048,576"):
        parse_tensors(blanks)
    with pytest.raises(FormatError, match="at most 1,048,576"):
        tensor_metadata(blanks)
    assert parse_tensors(blanks, MODELS) == {}


def test_half_a_million_tensors_are_refused_by_the_length_of_their_header():
    content = packed(
        b"{" + b", ".join([b'"t": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}'] * 500_000) + b"}"
    )
    with pytest.raises(FormatError, match="at most 8,000,000"):
        parse_tensors(content, MODELS)
