"""Log-mel spectrograms of a batch, computed where the encoder runs. The numbers are those of `engines.mel`."""

from __future__ import annotations

from collections.abc import Sequence

from ray_whisper_streaming.core.audio import INT16_SCALE
from ray_whisper_streaming.core.jobs import Int16Samples
from ray_whisper_streaming.engines.mel import (
    DYNAMIC_RANGE,
    HOP,
    LOG_FLOOR,
    WINDOW,
    hann_window,
    mel_filters,
    put_with_edges,
)
from ray_whisper_streaming.engines.torch.runtime import Tensor, functional, torch

__all__ = ["Spectrogram"]


class Spectrogram:
    """Computes spectrograms side by side; each is what it would be alone, but for rounding.

    Args:
        bands: mel bands of the model.
        device: where they are computed.
        number_type: what they are given in; they are computed in float32.
    """

    def __init__(self, bands: int, device: Tensor, number_type: Tensor) -> None:
        self._device, self._number_type = device, number_type
        self._window = torch.from_numpy(hann_window()).to(device)
        self._filters = torch.from_numpy(mel_filters(bands)).to(device)

    def upload(self, audios: Sequence[Int16Samples]) -> Tensor:
        """Audio with the edges that its first and last frames see, side by side on the device: one copy for a batch."""
        on_gpu = self._device.type == "cuda"
        # Memory that a GPU reads by itself, so that the copy needs no waiting for. PyTorch keeps it for the next one.
        side_by_side = torch.empty(
            (len(audios), max(map(len, audios)) + WINDOW), dtype=torch.int16, pin_memory=on_gpu
        )
        for row, audio in zip(side_by_side.numpy(), audios, strict=True):
            put_with_edges(audio, row)
        return side_by_side.to(self._device, non_blocking=True)

    def __call__(self, sounds: Tensor, frames: Tensor, padded_frames: int) -> Tensor:
        """Spectrograms of some rows of `upload`.

        Args:
            sounds: shape (windows, samples), int16.
            frames: of the audio of each, shape (windows,).
            padded_frames: how long all are made.

        Returns:
            shape (windows, bands, padded frames); zeros behind each one's audio.
        """
        signal = sounds[:, : padded_frames * HOP + WINDOW].float() / INT16_SCALE
        spectrum = torch.fft.rfft(signal.unfold(1, WINDOW, HOP) * self._window)
        power = spectrum.real.square() + spectrum.imag.square()
        raw = (power @ self._filters).clamp_min(LOG_FLOOR).log10()
        place = torch.arange(raw.shape[1], device=raw.device)
        # The frame behind the last counts as to how loud a window is, as in Whisper's own front end.
        audible = place <= frames[:, None]
        loudest = raw.masked_fill(~audible[..., None], float("-inf")).amax(dim=(1, 2), keepdim=True)
        scaled = (torch.maximum(raw, loudest - DYNAMIC_RANGE) + 4.0) * 0.25
        within = scaled.masked_fill((place >= frames[:, None])[..., None], 0.0)[:, :padded_frames]
        mels = functional.pad(within, (0, 0, 0, padded_frames - within.shape[1]))
        return mels.transpose(1, 2).to(self._number_type).contiguous()
