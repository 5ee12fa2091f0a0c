"""Reads tensors in Hugging Face's safetensors format: of one file, or of several with an index beside them.

A file: the length of its header (u64, little-endian); the header, JSON, which gives each tensor's number type, shape
and place; the tensors, row by row. An index, JSON: its ``weight_map`` says which file each tensor stands in.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.weights import ForeignModel

__all__ = ["SAFETENSORS", "has_tensors", "read_tensors"]

SAFETENSORS = "model.safetensors"

INDEX = f"{SAFETENSORS}.index.json"

NUMBER_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""BF16 is the upper halves of float32, which numpy has no name for."""

LENGTH_BYTES = 8


def has_tensors(folder: Path) -> bool:
    """Whether a folder holds a model in this format."""
    return any((folder / name).is_file() for name in (SAFETENSORS, INDEX))


def read_tensors(folder: Path) -> dict[str, Float32]:
    """Every tensor of a model's folder, as float32. A whole file goes before an index.

    Raises:
        ForeignModel: a file is damaged, or one that the index names is missing or lacks a tensor.
        OSError: a file can't be read.
    """
    if (folder / SAFETENSORS).is_file():
        return _tensors(folder / SAFETENSORS)
    found: dict[str, Float32] = {}
    for file, names in _files(folder).items():
        if not (folder / file).is_file():
            raise ForeignModel(f"{file}, which {INDEX} names, is missing")
        found |= _tensors(folder / file, names)
    return found


def _files(folder: Path) -> dict[str, list[str]]:
    """The names of the tensors that the index says stand in each file."""
    try:
        placed = cast(dict[str, Any], json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        entries = list(placed.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ForeignModel(f"{INDEX} does not say where the tensors are") from error
    files: defaultdict[str, list[str]] = defaultdict(list)
    for name, file in entries:
        # A folder may come from anywhere: what it says must not open files elsewhere.
        if not isinstance(file, str) or file in ("", "..") or Path(file).name != file:
            raise ForeignModel(f"{INDEX} names {file!r}, which is no file beside it")
        files[file].append(name)
    return files


def _tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Float32]:
    """The tensors of a file, as float32: those of these names, or all."""
    # (An empty file can't be mapped.)
    if path.stat().st_size < LENGTH_BYTES:
        raise ForeignModel(f"{path.name} ends early")
    raw = np.memmap(path, np.uint8, mode="r")
    (length,) = struct.unpack("<Q", raw[:LENGTH_BYTES].tobytes())
    begin = LENGTH_BYTES + length
    if begin > raw.size:
        raise ForeignModel(f"{path.name} ends early")
    try:
        header = cast(dict[str, dict[str, Any]], json.loads(raw[LENGTH_BYTES:begin].tobytes()))
    except ValueError as error:
        raise ForeignModel(f"{path.name} has no header") from error
    found: dict[str, Float32] = {}
    for name in header if names is None else names:
        if name == "__metadata__":
            continue
        if name not in header:
            raise ForeignModel(f"{path.name} lacks {name}, which {INDEX} says is in it")
        entry = header[name]
        kind = NUMBER_TYPES.get(entry["dtype"])
        if kind is None:
            raise ForeignModel(f"{name} has the number type {entry['dtype']}")
        first, end = entry["data_offsets"]
        part = raw[begin + first : begin + end]
        shape = tuple(int(size) for size in entry["shape"])
        if part.size != int(np.prod(shape, dtype=np.int64)) * kind.itemsize:
            raise ForeignModel(f"{name} has another size than its shape says")
        # A copy: the file need not stand on a multiple of a number's size.
        numbers = np.frombuffer(part.tobytes(), kind)
        if entry["dtype"] == "BF16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        found[name] = numbers.astype(np.float32).reshape(shape)
    return found
