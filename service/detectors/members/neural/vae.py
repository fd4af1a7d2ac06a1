"""A variational autoencoder (Kingma & Welling 2014; β as in Higgins et al. 2017) over window statistics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from service.detectors.members.neural.base import NeuralDetector


class VAEAnomalyDetector(NeuralDetector):
    """Blocks of Linear, LayerNorm, ReLU, Dropout; trained on reconstruction + β · KL; scored from the latent mean.

    The KL term shapes the latent space in training. It is left out of the score, where it was measured not to help.

    Options: ``beta``: the weight of the KL term in training; ``dropout``: the share of activations dropped in training; and those
    of ``NeuralDetector``, with other defaults for ``spans`` and ``whiten``.

    Example: ``training: {detectors: {vae: {weight: 1.0, latent: 10, beta: 0.5}}}``
    """

    default_name = "vae"

    def __init__(
        self,
        *,
        beta: float = 0.1,
        dropout: float = 0.2,
        spans: Sequence[int] = (5, 25, 100),
        whiten: bool = True,
        **options: Any,
    ) -> None:
        """``options``: those of ``NeuralDetector``."""
        super().__init__(spans=spans, whiten=whiten, **options)
        self.beta = beta
        self.dropout = dropout

    def _build(self, width: int) -> nn.Module:
        return _VAE(width, self.hidden, self.latent, self.dropout)

    def _loss(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _VAE)
        mean, log_variance = net.encode(inputs)
        sampled = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        reconstruction = (net.decode(sampled) - inputs).square().mean()
        # Per input, like the reconstruction, so that β means the same at 8 metrics and at 500.
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean() / inputs.shape[1]
        return reconstruction + self.beta * divergence

    def _reconstruct(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _VAE)
        mean, _ = net.encode(inputs)
        return net.decode(mean)


class _VAE(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int], latent: int, dropout: float) -> None:
        super().__init__()
        self.encoder = _blocks([width, *hidden], dropout)
        self.mean = nn.Linear(hidden[-1], latent)
        self.log_variance = nn.Linear(hidden[-1], latent)
        self.decoder = _blocks([latent, *hidden[::-1]], dropout)
        self.output = nn.Linear(hidden[0], width)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.encoder(inputs)
        return self.mean(inner), self.log_variance(inner).clamp(-10.0, 10.0)

    def decode(self, latent: Tensor) -> Tensor:
        out: Tensor = self.output(self.decoder(latent))
        return out


def _blocks(widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
