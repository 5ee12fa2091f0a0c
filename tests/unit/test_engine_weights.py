"""Reading CTranslate2's files, written here byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_whisper_streaming.engines.weights import read_weights
from ray_whisper_streaming.errors import ModelNotFound

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
TABLE = "decoder/embeddings/weight"


def named(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name: str, value: np.ndarray, code: int | None = None) -> bytes:
    head = named(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return (
        head
        + struct.pack("<BI", CODES[value.dtype.name] if code is None else code, value.nbytes)
        + value.tobytes()
    )


def whisper() -> dict[str, np.ndarray]:
    """The least that is taken for a Whisper model."""
    generator = np.random.default_rng(1)
    return {
        TABLE: generator.normal(size=(12, 4)).astype(np.float16),
        "decoder/layer_norm/gamma": np.ones(4, np.float32),
        "encoder/conv1/weight": generator.normal(size=(4, 80, 3)).astype(np.float32),
        "encoder/num_heads": np.array(2, np.int16),
        "decoder/num_heads": np.array(2, np.int16),
        **{f"decoder/layer_{layer}/ffn/linear_0/bias": np.zeros(4, np.float32) for layer in range(2)},
    }


def file_of(variables: dict[str, np.ndarray], codes: dict[str, int] | None = None) -> bytes:
    body = [struct.pack("<I", 6), named("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    body += [variable(name, value, (codes or {}).get(name)) for name, value in variables.items()]
    body += [struct.pack("<I", 1), named("decoder/projection/weight"), named(TABLE)]
    return b"".join(body)


def write(folder: Path, raw: bytes, config: Any = None) -> Path:
    (folder / "model.bin").write_bytes(raw)
    text = config if isinstance(config, str) else json.dumps(config or {})
    (folder / "config.json").write_text(text)
    return folder


def test_numbers_shapes_and_aliases_are_read(tmp_path: Path):
    variables = whisper()
    config = {"alignment_heads": [[1, 0]], "suppress_ids_begin": [3, 9]}
    weights = read_weights(write(tmp_path, file_of(variables), config))
    np.testing.assert_array_equal(weights.tensors[TABLE], variables[TABLE].astype(np.float32))
    assert weights.tensors["decoder/projection/weight"] is not None
    np.testing.assert_array_equal(weights.tensors["decoder/projection/weight"], weights.tensors[TABLE])
    assert (weights.width, weights.vocabulary, weights.mel_bands, weights.multilingual) == (4, 12, 80, False)
    assert (weights.encoder_heads, weights.decoder_heads) == (2, 2)
    assert (weights.layers("encoder"), weights.layers("decoder")) == (0, 2)
    assert weights.alignment_heads == ((1, 0),)
    assert weights.blank_ids == (3, 9)


def test_without_alignment_heads_the_upper_half_is_taken(tmp_path: Path):
    assert read_weights(write(tmp_path, file_of(whisper()))).alignment_heads == ((1, 0), (1, 1))


def test_int8_is_scaled_back_row_by_row(tmp_path: Path):
    name = "decoder/layer_0/ffn/linear_0/weight"
    wanted = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    scale = 127 / np.abs(wanted).max(axis=1)
    variables = {
        **whisper(),
        name: np.round(wanted * scale[:, None]).astype(np.int8),
        f"{name}_scale": scale.astype(np.float32),
    }
    found = read_weights(write(tmp_path, file_of(variables))).tensors
    assert f"{name}_scale" not in found
    np.testing.assert_allclose(found[name], wanted, atol=np.abs(wanted).max() / 127 / 2 + 1e-6)


def test_bfloat16_is_widened(tmp_path: Path):
    name = "decoder/layer_0/ffn/linear_0/weight"
    wanted = np.array([[1.0, -2.5, 0.15625, 3e10]], np.float32)
    halves = (wanted.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    raw = file_of({**whisper(), name: halves}, {name: 5})
    found = read_weights(write(tmp_path, raw)).tensors[name]
    np.testing.assert_allclose(found, wanted, rtol=2**-7)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    raw = file_of(whisper())
    for length in [*range(0, 120, 7), *range(120, len(raw), 97), len(raw) - 1]:
        with pytest.raises(ModelNotFound):
            read_weights(write(tmp_path, raw[:length]))


def without(name: str) -> bytes:
    return file_of({key: value for key, value in whisper().items() if key != name})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"not a model of any kind", "version"),
        (struct.pack("<I", 6) + named("TransformerSpec"), "another kind"),
        (file_of(whisper()) + b"\0", "goes on"),
        (file_of(whisper(), {TABLE: 77}), "number type"),
        (file_of(whisper(), {TABLE: 0}), "another size"),
        (without("decoder/num_heads"), "heads"),
        (without("encoder/conv1/weight"), "missing"),
        (file_of({**whisper(), "encoder/activation": np.array(0, np.int8)}), "activation"),
        (file_of({**whisper(), "encoder/x": np.zeros((2, 2), np.int8)}), "no scale"),
        (file_of({**whisper(), "encoder/x": np.zeros((1,) * 9, np.float32)}), "9 dimensions"),
    ],
)
def test_a_foreign_file_is_refused_and_says_why(tmp_path: Path, raw: bytes, said: str):
    with pytest.raises(ModelNotFound, match=said):
        read_weights(write(tmp_path, raw))


@pytest.mark.parametrize("config", ["{", "[]", '{"alignment_heads": [[9, 0]]}', '{"alignment_heads": [[1]]}'])
def test_a_bad_configuration_is_refused(tmp_path: Path, config: str):
    with pytest.raises(ModelNotFound):
        read_weights(write(tmp_path, file_of(whisper()), config))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ModelNotFound):
        read_weights(tmp_path)
