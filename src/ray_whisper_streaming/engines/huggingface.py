"""Reads the weights of a Whisper model in Hugging Face's format: safetensors, ``config.json`` and
``generation_config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ray_whisper_streaming.engines.mel import Float32
from ray_whisper_streaming.engines.safetensors import read_tensors
from ray_whisper_streaming.engines.weights import ForeignModel, WhisperWeights, alignment_heads_of, token_ids
from ray_whisper_streaming.errors import ModelNotFound

__all__ = ["read_huggingface"]

CONFIG = "config.json"
GENERATION = "generation_config.json"

ATTENTIONS = {"self_attn": "self_attention", "encoder_attn": "attention"}
"""Of a layer: Hugging Face's names, and CTranslate2's."""

FEED_FORWARD = {"fc1": "linear_0", "fc2": "linear_1"}

ACTIVATION = "gelu"


def read_huggingface(folder: Path) -> WhisperWeights:
    """The weights in a model's folder, by CTranslate2's names.

    Raises:
        ModelNotFound: a file is missing, damaged, or not a Whisper model.
    """
    try:
        config = _json(folder / CONFIG)
        generation = _json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
        return _whisper(read_tensors(folder), config, generation)
    except OSError as error:
        raise ModelNotFound(
            "model", str(folder), f"one whose files can be read ({error.strerror})"
        ) from error
    except ForeignModel as error:
        raise ModelNotFound(
            "model", str(folder), f"a Whisper model in Hugging Face's format: {error}"
        ) from error
    except KeyError as error:
        raise ModelNotFound("model", str(folder), f"a whole Whisper model: {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelNotFound("model", str(folder), "one whose configuration can be understood") from error


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _whisper(raw: dict[str, Float32], config: dict[str, Any], generation: dict[str, Any]) -> WhisperWeights:
    if config.get("model_type") != "whisper":
        raise ForeignModel(f"{CONFIG} is not of Whisper")
    if config.get("activation_function", ACTIVATION) != ACTIVATION:
        raise ForeignModel("it has another activation than Whisper's")
    tensors: dict[str, Float32] = {}
    for part in ("encoder", "decoder"):
        tensors[f"{part}/position_encodings/encodings"] = raw[f"model.{part}.embed_positions.weight"]
        _norm(tensors, f"{part}", raw, f"model.{part}.layer_norm")
        for layer in range(int(config[f"{part}_layers"])):
            _layer(tensors, f"{part}/layer_{layer}", raw, f"model.{part}.layers.{layer}", part)
    for convolution in ("conv1", "conv2"):
        _linear(tensors, f"encoder/{convolution}", raw, [f"model.encoder.{convolution}"])
    tensors["decoder/embeddings/weight"] = raw["model.decoder.embed_tokens.weight"]
    tensors["decoder/projection/weight"] = raw.get("proj_out.weight", tensors["decoder/embeddings/weight"])
    plain = WhisperWeights(
        tensors=tensors,
        encoder_heads=int(config["encoder_attention_heads"]),
        decoder_heads=int(config["decoder_attention_heads"]),
        alignment_heads=(),
        language_ids=token_ids(list(cast(dict[str, int], generation.get("lang_to_id") or {}).values())),
        blank_ids=token_ids(generation.get("begin_suppress_tokens") or config.get("begin_suppress_tokens")),
    )
    heads = alignment_heads_of(
        generation.get("alignment_heads"), plain.layers("decoder"), plain.decoder_heads
    )
    return replace(plain, alignment_heads=heads)


def _layer(tensors: dict[str, Float32], name: str, raw: dict[str, Float32], old: str, part: str) -> None:
    for old_attention, attention in list(ATTENTIONS.items())[: 1 if part == "encoder" else 2]:
        here, there = f"{name}/{attention}", f"{old}.{old_attention}"
        query, key, value = (f"{there}.{kind}_proj" for kind in "qkv")
        # CTranslate2 stacks what is computed of the same input.
        stacked = [[query, key, value]] if old_attention == "self_attn" else [[query], [key, value]]
        for number, parts in enumerate([*stacked, [f"{there}.out_proj"]]):
            _linear(tensors, f"{here}/linear_{number}", raw, parts)
        _norm(tensors, here, raw, f"{there}_layer_norm")
    for old_linear, linear in FEED_FORWARD.items():
        _linear(tensors, f"{name}/ffn/{linear}", raw, [f"{old}.{old_linear}"])
    _norm(tensors, f"{name}/ffn", raw, f"{old}.final_layer_norm")


def _linear(tensors: dict[str, Float32], name: str, raw: dict[str, Float32], parts: Sequence[str]) -> None:
    weights = [raw[f"{part}.weight"] for part in parts]
    # Whisper's keys have no bias.
    biases = [
        raw.get(f"{part}.bias", np.zeros(len(weight), np.float32))
        for part, weight in zip(parts, weights, strict=True)
    ]
    tensors[f"{name}/weight"] = np.concatenate(weights) if len(weights) > 1 else weights[0]
    tensors[f"{name}/bias"] = np.concatenate(biases)


def _norm(tensors: dict[str, Float32], name: str, raw: dict[str, Float32], old: str) -> None:
    tensors[f"{name}/layer_norm/gamma"] = raw[f"{old}.weight"]
    tensors[f"{name}/layer_norm/beta"] = raw[f"{old}.bias"]
