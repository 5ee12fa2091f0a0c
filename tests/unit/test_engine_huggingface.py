"""Reading Hugging Face's files, written here byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.small_whisper import ALIGNMENT_HEADS, BLANKS, HEADS, LAYERS, WEIGHTS, WIDTH

from ray_whisper_streaming.engines.weights import read_weights
from ray_whisper_streaming.errors import ModelNotFound

CONFIG = {
    "model_type": "whisper",
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
}
GENERATION = {
    "alignment_heads": [list(pair) for pair in ALIGNMENT_HEADS],
    "begin_suppress_tokens": BLANKS.tolist(),
    "lang_to_id": {"<|en|>": 46, "<|de|>": 47},
}


def theirs() -> dict[str, np.ndarray]:
    """The small model by Hugging Face's names."""
    found: dict[str, np.ndarray] = {}
    tensors = WEIGHTS.tensors
    for part in ("encoder", "decoder"):
        found[f"model.{part}.embed_positions.weight"] = tensors[f"{part}/position_encodings/encodings"]
        norms = {f"model.{part}.layer_norm": f"{part}/layer_norm"}
        for layer in range(LAYERS):
            old, new = f"model.{part}.layers.{layer}", f"{part}/layer_{layer}"
            norms |= {
                f"{old}.self_attn_layer_norm": f"{new}/self_attention/layer_norm",
                f"{old}.final_layer_norm": f"{new}/ffn/layer_norm",
            }
            stacked = {f"{old}.self_attn": (f"{new}/self_attention/linear_0", "qkv")}
            plain = {
                f"{old}.self_attn.out_proj": f"{new}/self_attention/linear_1",
                f"{old}.fc1": f"{new}/ffn/linear_0",
                f"{old}.fc2": f"{new}/ffn/linear_1",
            }
            if part == "decoder":
                norms[f"{old}.encoder_attn_layer_norm"] = f"{new}/attention/layer_norm"
                plain[f"{old}.encoder_attn.q_proj"] = f"{new}/attention/linear_0"
                plain[f"{old}.encoder_attn.out_proj"] = f"{new}/attention/linear_2"
                stacked[f"{old}.encoder_attn"] = (f"{new}/attention/linear_1", "kv")
            for name, source in plain.items():
                for kind in ("weight", "bias"):
                    found[f"{name}.{kind}"] = tensors[f"{source}/{kind}"]
            for name, (source, letters) in stacked.items():
                for kind in ("weight", "bias"):
                    pieces = np.split(tensors[f"{source}/{kind}"], len(letters))
                    found |= {
                        f"{name}.{letter}_proj.{kind}": piece
                        for letter, piece in zip(letters, pieces, strict=True)
                    }
        for name, source in norms.items():
            found[f"{name}.weight"] = tensors[f"{source}/gamma"]
            found[f"{name}.bias"] = tensors[f"{source}/beta"]
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            found[f"model.encoder.{name}.{kind}"] = tensors[f"encoder/{name}/{kind}"]
    found["model.decoder.embed_tokens.weight"] = tensors["decoder/embeddings/weight"]
    return found


def file_of(tensors: dict[str, np.ndarray], kinds: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in tensors.items():
        kind = (kinds or {}).get(name) or {"float32": "F32", "float16": "F16"}[value.dtype.name]
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + value.nbytes],
        }
        data += value.tobytes()
    # An odd length, so that the numbers stand on no multiple of their size.
    raw = json.dumps(header).encode()
    raw += b" " * (1 - len(raw) % 2)
    return struct.pack("<Q", len(raw)) + raw + data


def write(folder: Path, raw: bytes, config: Any = CONFIG, generation: Any = GENERATION) -> Path:
    (folder / "model.safetensors").write_bytes(raw)
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def placed(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """Which of the two files each tensor is written to: layers are torn apart."""
    return {name: SHARDS[number % 2] for number, name in enumerate(tensors)}


def write_shards(folder: Path, weight_map: Any = None) -> Path:
    """The small model in two files and an index, which says what is true or ``weight_map``."""
    tensors = theirs()
    files = placed(tensors)
    for shard in SHARDS:
        raw = file_of({name: value for name, value in tensors.items() if files[name] == shard})
        (folder / shard).write_bytes(raw)
    index = {"metadata": {"total_size": 0}, "weight_map": files if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_model_in_several_files_is_that_of_one(tmp_path: Path):
    found = read_weights(write_shards(tmp_path)).tensors
    assert found.keys() == WEIGHTS.tensors.keys()
    for name, wanted in WEIGHTS.tensors.items():
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)


def test_a_file_is_read_where_it_links_to(tmp_path: Path):
    """Hugging Face's cache is made so."""
    write_shards(tmp_path)
    (tmp_path / "blobs").mkdir()
    (tmp_path / SHARDS[1]).rename(tmp_path / "blobs" / "1f00")
    (tmp_path / SHARDS[1]).symlink_to(tmp_path / "blobs" / "1f00")
    assert read_weights(tmp_path).tensors.keys() == WEIGHTS.tensors.keys()


def test_the_file_of_a_whole_model_goes_before_an_index(tmp_path: Path):
    write_shards(tmp_path, {"model.encoder.conv1.bias": "nowhere.safetensors"})
    assert read_weights(write(tmp_path, file_of(theirs()))).tensors.keys() == WEIGHTS.tensors.keys()


@pytest.mark.parametrize("left", [None, 0, 4, 100, -1])
def test_a_file_of_several_that_is_missing_or_cut_is_named(tmp_path: Path, left: int | None):
    shard = write_shards(tmp_path) / SHARDS[1]
    raw = shard.read_bytes()
    shard.unlink()
    if left is not None:
        shard.write_bytes(raw[:left])
    with pytest.raises(ModelNotFound, match="another size" if left == -1 else SHARDS[1]):
        read_weights(tmp_path)


FILES = placed(theirs())
BIAS = "model.encoder.conv1.bias"


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({**FILES, BIAS: SHARDS[1 - SHARDS.index(FILES[BIAS])]}, f"lacks {BIAS}"),
        ({**FILES, "unheard.of": SHARDS[0]}, "lacks unheard.of"),
        ({name: file for name, file in FILES.items() if "fc1" not in name}, "fc1"),
        ({**FILES, BIAS: "model-00003-of-00002.safetensors"}, "model-00003-of-00002.safetensors"),
        *(({**FILES, BIAS: file}, "no file beside it") for file in (f"../{SHARDS[0]}", "..", "", 7, None)),
        ({**FILES, BIAS: "/etc/passwd"}, "no file beside it"),
        ([], "index.json"),
        ("elsewhere", "index.json"),
    ],
)
def test_an_index_that_is_not_true_is_refused_and_says_why(tmp_path: Path, weight_map: Any, said: str):
    with pytest.raises(ModelNotFound, match=said):
        read_weights(write_shards(tmp_path, weight_map))


@pytest.mark.parametrize("raw", ["", "[]", "{}", "{", '"weight_map"', "\udcff"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, raw: str):
    index = write_shards(tmp_path) / "model.safetensors.index.json"
    index.write_text(raw, errors="surrogateescape")
    with pytest.raises(ModelNotFound, match=index.name):
        read_weights(tmp_path)


def test_every_tensor_stands_under_the_name_that_ctranslate2_gives_it(tmp_path: Path):
    found = read_weights(write(tmp_path, file_of(theirs())))
    assert found.tensors.keys() == WEIGHTS.tensors.keys()
    for name, wanted in WEIGHTS.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], wanted, err_msg=name)
    assert found.tensors["decoder/projection/weight"] is found.tensors["decoder/embeddings/weight"]
    assert (found.encoder_heads, found.decoder_heads) == (HEADS, HEADS)
    assert found.alignment_heads == ALIGNMENT_HEADS
    assert found.blank_ids == tuple(BLANKS)
    assert found.language_ids == (46, 47)


def test_keys_without_a_bias_have_one_of_zeros(tmp_path: Path):
    tensors = {name: value for name, value in theirs().items() if not name.endswith("k_proj.bias")}
    found = read_weights(write(tmp_path, file_of(tensors))).tensors
    bias = found["decoder/layer_1/self_attention/linear_0/bias"]
    assert not bias[WIDTH : 2 * WIDTH].any()
    np.testing.assert_array_equal(
        bias[2 * WIDTH :], WEIGHTS.tensors["decoder/layer_1/self_attention/linear_0/bias"][2 * WIDTH :]
    )
    assert not found["decoder/layer_1/attention/linear_1/bias"][:WIDTH].any()


def test_half_precision_is_widened(tmp_path: Path):
    tensors = theirs()
    name, other = "model.encoder.conv1.bias", "model.encoder.conv2.bias"
    tensors[name] = tensors[name].astype(np.float16)
    tensors[other] = (tensors[other].view(np.uint32) >> 16).astype(np.uint16)
    found = read_weights(write(tmp_path, file_of(tensors, {other: "BF16"}))).tensors
    np.testing.assert_allclose(
        found["encoder/conv1/bias"], WEIGHTS.tensors["encoder/conv1/bias"], rtol=2**-10
    )
    np.testing.assert_allclose(found["encoder/conv2/bias"], WEIGHTS.tensors["encoder/conv2/bias"], rtol=2**-7)


def test_a_configuration_for_generation_may_be_missing(tmp_path: Path):
    found = read_weights(write(tmp_path, file_of(theirs()), generation=None))
    assert found.alignment_heads == ((1, 0), (1, 1))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    raw = file_of(theirs())
    for length in [*range(0, 40, 7), *range(40, len(raw), 9973), len(raw) - 1]:
        with pytest.raises(ModelNotFound):
            read_weights(write(tmp_path, raw[:length]))


def without(name: str) -> bytes:
    return file_of({key: value for key, value in theirs().items() if key != name})


@pytest.mark.parametrize(
    ("raw", "config", "said"),
    [
        (file_of(theirs()), {**CONFIG, "model_type": "bert"}, "Whisper"),
        (file_of(theirs()), {**CONFIG, "activation_function": "relu"}, "activation"),
        (file_of(theirs()), {**CONFIG, "decoder_layers": LAYERS + 1}, "missing"),
        (file_of(theirs()), [], "configuration"),
        (without("model.decoder.layers.0.fc1.weight"), CONFIG, "fc1"),
        (file_of(theirs(), {"model.encoder.conv1.bias": "I8"}), CONFIG, "number type"),
        (file_of(theirs(), {"model.encoder.conv1.bias": "F16"}), CONFIG, "another size"),
        (struct.pack("<Q", 9) + b"not JSON.", CONFIG, "header"),
    ],
)
def test_a_foreign_file_is_refused_and_says_why(tmp_path: Path, raw: bytes, config: Any, said: str):
    with pytest.raises(ModelNotFound, match=said):
        read_weights(write(tmp_path, raw, config))
