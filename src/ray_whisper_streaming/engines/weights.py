"""Reads the weights of a Whisper model in CTranslate2's format, for engines that compute by other means.

The file, version 6, little-endian: version (u32), name of the model family, its revision (u32); the number of
variables (u32) and each of them: name, rank (u8), size of each dimension (u32), number type (u8), bytes (u32),
data; the number of aliases (u32) and each of them: its name, and that of the variable it stands for. A name is its
length (u16, the closing zero counted) and its bytes. Weights of int8 stand beside a variable ``.../weight_scale``:
the number each row was multiplied by.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.errors import ModelNotFound

__all__ = ["ForeignModel", "WhisperWeights", "alignment_heads_of", "read_weights", "token_ids"]

WEIGHTS = "model.bin"
CONFIG = "config.json"

FAMILY = "WhisperSpec"

VERSION = 6
"""Of the file format. (The versions before it are those of converters of 2022 and older.)"""

NUMBER_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
    5: np.dtype("<u2"),
}
"""By CTranslate2's number. 5 is bfloat16, which numpy has no name for: the upper halves of float32."""

BFLOAT16 = 5

QUANTISED = ("int8", "int16")
"""Types that are no numbers without a scale."""

GELU = 3
"""CTranslate2's number of the exact Gaussian error linear unit, the only one Whisper models have."""

SCALE_SUFFIX = "_scale"

MULTILINGUAL_VOCABULARY = 51865
"""Tokens of the smallest multilingual model; English ones have one less."""

MAX_RANK = 8
"""A higher one is no tensor of a Whisper model but a damaged file."""


@dataclass(frozen=True, slots=True)
class WhisperWeights:
    """A Whisper model's numbers.

    Attributes:
        tensors: by CTranslate2's name, as float32. Linear layers have the shape (outputs, inputs); those of queries,
            keys and values are stacked.
        encoder_heads: attention heads of a layer of the encoder.
        decoder_heads: and of the decoder.
        alignment_heads: (layer, head) of the decoder's heads whose attention follows the speech.
        language_ids: tokens of the languages; none in an English model.
        blank_ids: tokens that may not stand first in an answer.
    """

    tensors: dict[str, Float32]
    encoder_heads: int
    decoder_heads: int
    alignment_heads: tuple[tuple[int, int], ...]
    language_ids: tuple[int, ...]
    blank_ids: tuple[int, ...]

    @property
    def multilingual(self) -> bool:
        """Whether it knows languages other than English."""
        return self.vocabulary >= MULTILINGUAL_VOCABULARY

    @property
    def width(self) -> int:
        """Numbers per position."""
        return self.tensors["decoder/embeddings/weight"].shape[1]

    @property
    def vocabulary(self) -> int:
        """Tokens."""
        return self.tensors["decoder/embeddings/weight"].shape[0]

    @property
    def mel_bands(self) -> int:
        """Mel bands the encoder takes."""
        return self.tensors["encoder/conv1/weight"].shape[1]

    def layers(self, part: str) -> int:
        """Layers of ``"encoder"`` or ``"decoder"``."""
        prefix = f"{part}/layer_"
        # The norm behind the last layer is called layer_norm.
        numbers = {name[len(prefix) :].split("/")[0] for name in self.tensors if name.startswith(prefix)}
        return len(numbers - {"norm"})


def read_weights(folder: Path) -> WhisperWeights:
    """The weights in a model's folder: in CTranslate2's format or, where that is not there, in Hugging Face's.

    Raises:
        ModelNotFound: a file is missing, damaged, of another format, or not a Whisper model.
    """
    # Imported here: they use what is defined here.
    from ray_whisper_streaming.engines.huggingface import read_huggingface
    from ray_whisper_streaming.engines.safetensors import has_tensors

    if not (folder / WEIGHTS).is_file() and has_tensors(folder):
        return read_huggingface(folder)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        raw = _variables((folder / WEIGHTS).read_bytes())
        return _whisper(raw, config)
    except OSError as error:
        raise ModelNotFound(
            "model", str(folder), f"one whose files can be read ({error.strerror})"
        ) from error
    except ForeignModel as error:
        raise ModelNotFound(
            "model", str(folder), f"a Whisper model in CTranslate2's format: {error}"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelNotFound("model", str(folder), f"one whose {CONFIG} can be understood") from error


class ForeignModel(Exception):
    """A file is not what it should be; the text says what it is instead."""


class _Reader:
    """Takes values off the front of a file's bytes."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._raw)

    def take(self, count: int) -> memoryview:
        if self._at + count > len(self._raw):
            raise ForeignModel(f"{WEIGHTS} ends early")
        self._at += count
        return memoryview(self._raw)[self._at - count : self._at]

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        raw = bytes(self.take(self.number("<H")))
        if not raw.endswith(b"\0"):
            raise ForeignModel(f"a name in {WEIGHTS} has no end")
        try:
            return raw[:-1].decode("ascii")
        except UnicodeDecodeError as error:
            raise ForeignModel(f"a name in {WEIGHTS} is not one") from error


def _variables(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    """Every variable of a file, aliases too."""
    reader = _Reader(raw)
    if reader.number("<I") != VERSION:
        raise ForeignModel(f"{WEIGHTS} is not of version {VERSION}")
    if reader.name() != FAMILY:
        raise ForeignModel(f"{WEIGHTS} holds another kind of model")
    reader.number("<I")  # its revision, which says what was added and so far took nothing away
    found: dict[str, npt.NDArray[Any]] = {}
    for _ in range(reader.number("<I")):
        name = reader.name()
        found[name] = _variable(reader, name)
    for _ in range(reader.number("<I")):
        alias, name = reader.name(), reader.name()
        if name not in found:
            raise ForeignModel(f"{alias} stands for {name}, which is missing")
        found[alias] = found[name]
    if not reader.at_end:
        raise ForeignModel(f"{WEIGHTS} goes on where it should end")
    return found


def _variable(reader: _Reader, name: str) -> npt.NDArray[Any]:
    rank = reader.number("<B")
    if rank > MAX_RANK:
        raise ForeignModel(f"{name} has {rank} dimensions")
    shape = tuple(reader.number("<I") for _ in range(rank))
    code = reader.number("<B")
    kind = NUMBER_TYPES.get(code)
    if kind is None:
        raise ForeignModel(f"{name} has an unknown number type")
    data = np.frombuffer(reader.take(reader.number("<I")), kind)
    if data.size != int(np.prod(shape, dtype=np.int64)):
        raise ForeignModel(f"{name} has another size than its shape says")
    if code == BFLOAT16:
        data = (data.astype(np.uint32) << 16).view(np.float32)
    return data.reshape(shape)


def _whisper(raw: dict[str, npt.NDArray[Any]], config: dict[str, Any]) -> WhisperWeights:
    tensors: dict[str, Float32] = {}
    # A variable with two names stays one tensor.
    made: dict[int, Float32] = {}
    for name, value in raw.items():
        if value.ndim and not name.endswith(SCALE_SUFFIX):
            if id(value) not in made:
                made[id(value)] = _dequantised(name, value, raw.get(name + SCALE_SUFFIX))
            tensors[name] = made[id(value)]
    for name in ("encoder/conv1/weight", "decoder/embeddings/weight", "decoder/layer_norm/gamma"):
        if name not in tensors:
            raise ForeignModel(f"{name} is missing")
    for part in ("encoder", "decoder"):
        if int(raw.get(f"{part}/activation", np.array(GELU))) != GELU:
            raise ForeignModel(f"the {part} has another activation than Whisper's")
    heads = [int(raw[f"{part}/num_heads"]) for part in ("encoder", "decoder") if f"{part}/num_heads" in raw]
    if len(heads) != 2 or min(heads) < 1:
        raise ForeignModel("the number of heads is missing")
    plain = WhisperWeights(
        tensors=tensors,
        encoder_heads=heads[0],
        decoder_heads=heads[1],
        alignment_heads=(),
        language_ids=token_ids(config.get("lang_ids")),
        blank_ids=token_ids(config.get("suppress_ids_begin")),
    )
    aligned = alignment_heads_of(config.get("alignment_heads"), plain.layers("decoder"), heads[1])
    return replace(plain, alignment_heads=aligned)


def _dequantised(name: str, value: npt.NDArray[Any], scale: npt.NDArray[Any] | None) -> Float32:
    plain = value.astype(np.float32)
    if value.dtype.name not in QUANTISED:
        return plain
    if scale is None:
        raise ForeignModel(f"{name} is quantised and has no scale")
    factors = scale.astype(np.float32)
    return plain / (factors.reshape(-1, *(1,) * (plain.ndim - 1)) if factors.ndim else factors)


def token_ids(configured: Any) -> tuple[int, ...]:
    """Tokens that a configuration lists."""
    return tuple(int(value) for value in cast(Sequence[Any], configured or ()))


def alignment_heads_of(configured: Any, layers: int, heads: int) -> tuple[tuple[int, int], ...]:
    """Those of a configuration; else all heads of the upper half of the layers, as Whisper's own code takes."""
    listed = cast(Sequence[Sequence[Any]], configured or ())
    found = tuple((int(layer), int(head)) for layer, head in listed)
    if any(not (0 <= layer < layers and 0 <= head < heads) for layer, head in found):
        raise ForeignModel("the configuration names alignment heads that don't exist")
    return found or tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
