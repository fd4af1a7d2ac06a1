"""An autoencoder with batch normalisation over window statistics (Hinton & Salakhutdinov 2006; Ioffe & Szegedy 2015)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.detectors.features import Features
from service.detectors.neural import NeuralDetector
from service.detectors.statistics import WindowStatistics, group
from service.detectors.whitening import Whitening
from service.domain import F32, F64


class AutoencoderAnomalyDetector(NeuralDetector):
    """Encoder and decoder of Linear, BatchNorm, ReLU blocks around a narrow middle, on whitened statistics.

    Whitening gives every direction of normal variation the same say in the loss; without it the network spends itself on
    the widest few, and small broken relations leave no trace in the error. The score is the root mean square error.
    """

    default_name = "autoencoder"

    def __init__(
        self, *, hidden: Sequence[int] = (128,), latent: int = 32, spans: Sequence[int] = (5, 25, 100), **options: Any
    ) -> None:
        """``options`` are ``NeuralDetector``'s."""
        super().__init__(hidden=hidden, latent=latent, spans=spans, **options)
        self._statistics = WindowStatistics(spans, deviations=True)
        self._whitening = Whitening()
        self._error_mean = self._error_std = 0.0

    def score(self, features: Features) -> F64:
        """Float64 (n,): root mean square reconstruction error."""
        return _size(self._errors(features))

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): squared reconstruction error, each metric's statistics together."""
        if self.raw:
            return super().attribute(features)
        net, inputs = self._ready(features)
        with torch.inference_mode():
            missed = self._reconstruct(net, torch.from_numpy(inputs)).numpy() - inputs
        return self._statistics.per_metric(np.square(self._whitening.back(missed)), features.dims)

    def _fit_inputs(self, features: Features) -> None:
        self._whitening.fit(self._statistics.fit(features).transform(features))

    def _inputs(self, features: Features) -> F32:
        return super()._inputs(features) if self.raw else self._whitening.transform(super()._inputs(features))

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
        errors = _size(self._errors_of(net, inputs.numpy()))
        self._error_mean, self._error_std = float(errors.mean()), float(errors.std())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Architecture, weights and the training errors' mean and spread."""
        settings, arrays = super().state()
        if not self.raw:
            told, kept = self._whitening.state()
            settings, arrays = {**settings, "whitening": told}, {**arrays, **{f"whitening/{key}": kept[key] for key in kept}}
        return {**settings, "error_mean": self._error_mean, "error_std": self._error_std}, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        super().restore(settings, arrays)
        if not self.raw:
            self._whitening.restore(settings["whitening"], group(arrays, "whitening"))
        self._error_mean, self._error_std = float(settings["error_mean"]), float(settings["error_std"])


def _size(errors: F32) -> F64:
    size: F64 = np.sqrt(np.square(errors).mean(axis=1, dtype=np.float64))
    return size


class _Autoencoder(nn.Sequential):
    def __init__(self, width: int, hidden: Sequence[int], latent: int) -> None:
        layers: list[nn.Module] = []
        inner = [width, *hidden, latent, *hidden[::-1]]
        for before, after in itertools.pairwise(inner):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(inner[-1], width))
