"""An autoencoder with batch normalisation over window statistics (Hinton & Salakhutdinov 2006; Ioffe & Szegedy 2015)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from service.detectors.members.neural.base import NeuralDetector


class AutoencoderAnomalyDetector(NeuralDetector):
    """Encoder and decoder of Linear, BatchNorm, ReLU blocks around a narrow middle layer.

    Options: those of ``NeuralDetector``, with other defaults for ``hidden``, ``latent``, ``spans`` and ``whiten``.

    Example: ``training: {detectors: {autoencoder: {weight: 1.0, hidden: [128], latent: 32}}}``
    """

    default_name = "autoencoder"

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128,),
        latent: int = 32,
        spans: Sequence[int] = (5, 25, 100),
        whiten: bool = True,
        **options: Any,
    ) -> None:
        """``options``: those of ``NeuralDetector``."""
        super().__init__(hidden=hidden, latent=latent, spans=spans, whiten=whiten, **options)
        self._error_mean = self._error_std = 0.0

    def threshold(self, sigmas: float = 3.0) -> float:
        """Mean + ``sigmas`` standard deviations of the training scores: the plain rule of the literature (2 or 3).

        The service decides by calibrated tails instead; this rule gave 22 % false alarms on real series.
        Raises ``RuntimeError`` before ``fit``: there is no threshold without training errors.
        """
        if self._net is None:
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return self._error_mean + sigmas * self._error_std

    def _build(self, width: int) -> nn.Module:
        return _Autoencoder(width, self.hidden, self.latent)

    def _loss(self, net: nn.Module, inputs: Tensor) -> Tensor:
        return (self._reconstruct(net, inputs) - inputs).square().mean()

    def _reconstruct(self, net: nn.Module, inputs: Tensor) -> Tensor:
        out: Tensor = net(inputs)
        return out

    def _trained(self, net: nn.Module, inputs: Tensor) -> None:
        errors = self._size(self._errors_of(net, inputs.numpy()))
        self._error_mean, self._error_std = float(errors.mean()), float(errors.std())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Architecture, weights and the training errors' mean and spread."""
        settings, arrays = super().state()
        return {**settings, "error_mean": self._error_mean, "error_std": self._error_std}, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        super().restore(settings, arrays)
        self._error_mean, self._error_std = float(settings["error_mean"]), float(settings["error_std"])


class _Autoencoder(nn.Sequential):
    def __init__(self, width: int, hidden: Sequence[int], latent: int) -> None:
        layers: list[nn.Module] = []
        inner = [width, *hidden, latent, *hidden[::-1]]
        for before, after in itertools.pairwise(inner):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(inner[-1], width))
