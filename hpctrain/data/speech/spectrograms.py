"""Speech as spectrograms: logarithmic power of 20 ms windows every 10 ms, in bins of 50 Hz.

B utterances, F frequency bins, T frames, L characters. Each utterance is normalised to mean 0 and deviation 1
(as in Amodei et al. 2016); shorter ones are padded with zeros to `data.sequence_length` frames.
"""

from __future__ import annotations

import itertools
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.data.speech.source import Utterance, numbers_of
from hpctrain.errors import UserError

WINDOW_S, HOP_S = 0.020, 0.010


class SpeechDataset:
    """Recordings as spectrograms of equal length, with their texts as characters."""

    shuffle = True

    def __init__(self, items: Sequence[Utterance], frames: int, bins: int) -> None:
        """Reads every recording. Raises UserError if one is longer than `frames`, or too short for its transcript."""
        spectra = [spectrogram(*read_audio(item.path), bins) for item in items]
        longest = max(spectrum.shape[1] for spectrum in spectra)
        if longest > frames:
            raise UserError(
                "data.sequence_length", frames, f"must be ≥ {longest}, the longest recording's frames"
            )
        labels = [numbers_of(item.text) for item in items]
        short = [
            (item, len(numbers), spectrum.shape[1])
            for item, numbers, spectrum in zip(items, labels, spectra, strict=True)
            if least_steps(numbers) > spectrum.shape[1]
        ]
        if short:
            item, letters, heard = short[0]
            many = f"; so are {len(short) - 1:,} more" if len(short) > 1 else ""
            raise UserError(
                "data.path", item.path, f"is too short for its transcript: {letters} characters in {heard} frames of "
                f"10 ms{many}"
            )  # fmt: skip
        self._lengths = torch.tensor([spectrum.shape[1] for spectrum in spectra])
        self._label_lengths = torch.tensor([len(numbers) for numbers in labels])
        self._spectra = torch.zeros(len(items), 1, bins, frames)
        self._labels = torch.zeros(len(items), max(map(len, labels)), dtype=torch.int64)
        for i, (spectrum, numbers) in enumerate(zip(spectra, labels, strict=True)):
            self._spectra[i, 0, :, : spectrum.shape[1]] = torch.from_numpy(spectrum)
            self._labels[i, : len(numbers)] = torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self._lengths)

    def to(self, device: torch.device) -> SpeechDataset:
        """Puts later batches on `device`; the recordings stay on the host. Returns the set."""
        self._device = device
        return self

    _device = torch.device("cpu")

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns spectrograms (B, 1, F, T), their valid frames (B,), characters (B, L) and how many are valid (B,)."""
        del generator
        parts = (self._spectra, self._lengths, self._labels, self._label_lengths)
        spectra, lengths, labels, counts = (p[torch.from_numpy(indices)].to(self._device) for p in parts)
        return spectra, lengths, labels, counts


def least_steps(numbers: Sequence[int]) -> int:
    """Returns the fewest steps in which CTC can say a text: one per character, and a blank between equal ones."""
    return len(numbers) + sum(a == b for a, b in itertools.pairwise(numbers))


def read_audio(path: Path) -> tuple[NDArray[Any], int]:
    """Returns the samples (n,) of a recording of one channel, in ±1, and the samples per second. Raises UserError."""
    if path.suffix.lower() == ".flac":
        try:
            import soundfile
        except ImportError:
            raise UserError(
                "data.path", path, "FLAC needs the extra: pip install 'hpctrain[speech]'"
            ) from None
        try:
            samples, rate = soundfile.read(path, dtype="float32")
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise UserError("data.path", path, f"is not a whole FLAC file: {error}") from None
        if samples.ndim != 1:
            raise UserError("data.path", path, f"must have one channel, not {samples.shape[1]}")
        return samples, int(rate)
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise UserError("data.path", path, "must have one channel of 16 bits")
            content, promised = file.readframes(file.getnframes()), 2 * file.getnframes()
            if len(content) < promised:
                said = f"is cut short: it has {len(content):,} of the {promised:,} bytes that its header promises"
                raise UserError("data.path", path, said)
            return np.frombuffer(content, "<i2").astype(np.float32) / 2**15, file.getframerate()
    except (wave.Error, EOFError) as error:
        raise UserError("data.path", path, f"is not a WAV file: {error}") from None


def spectrogram(samples: NDArray[Any], rate: int, bins: int) -> NDArray[np.float32]:
    """Returns (F, T), normalised: the lowest `bins` frequencies, 50 Hz apart at any rate. Raises UserError."""
    width, hop = round(rate * WINDOW_S), round(rate * HOP_S)
    if width // 2 + 1 < bins:
        raise UserError(
            "data.frequency_bins", bins, f"must be ≤ {width // 2 + 1} at {rate} samples per second"
        )
    samples = np.pad(samples, (0, max(0, width - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(samples, width)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(width))[:, :bins]) ** 2
    logarithm = np.log(power + 1e-10).T
    scaled: NDArray[np.float32] = ((logarithm - logarithm.mean()) / (logarithm.std() + 1e-6)).astype(
        np.float32
    )
    return scaled
