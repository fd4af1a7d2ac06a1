"""A generative adversarial detector over window statistics, with an encoder so that scoring needs no search per window.

The encoder E and the generator G learn to reconstruct windows (``G(E(x)) ≈ x``) and to invent them from noise (``G(z)``);
the discriminator D learns to tell real windows from both. The score joins the reconstruction error with D's confidence in
the window, each in units of its own training spread (after MAD-GAN, Li et al. 2019, and f-AnoGAN, Schlegl et al. 2019,
whose encoder replaces the search). D never saw anything but real windows and fakes that resemble them, so far from both its
confidence may be off in either direction: what counts is how far it lies from the usual one.

Against mode collapse: spectral normalisation of D (Miyato et al. 2018), a latent consistency term ``E(G(z)) ≈ z`` (as in
ALAD, Zenati et al. 2018), and a check after training that what G invents varies like what it saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from service.detectors.features.windows import Features
from service.detectors.members.neural.base import NeuralDetector, descend
from service.domain import F64
from service.errors import TrainingFailed

# Standard deviation of invented windows over that of real ones, below which the generator is called collapsed.
LEAST_DIVERSITY = 0.1


class GANAnomalyDetector(NeuralDetector):
    """Reconstruction by encoder and generator, and the discriminator's doubt."""

    default_name = "gan"
    last_epochs = 0  # the balance that early stopping chose is not disturbed again

    def __init__(self, *, doubt_weight: float = 0.1, adversarial_weight: float = 0.1, **options: Any) -> None:
        """``doubt_weight``: the discriminator's part in the score, in [0, 1]; ``adversarial_weight``: fooling it, in training."""
        super().__init__(**options)
        self.doubt_weight = doubt_weight
        self.adversarial_weight = adversarial_weight
        self.diversity = 0.0
        self._scales = {"error": (0.0, 1.0), "confidence": (0.0, 1.0)}

    def _build(self, width: int) -> nn.Module:
        return _GAN(width, self.hidden, self.latent, spectral_norm)

    def _skeleton(self, width: int) -> nn.Module:
        return _GAN(width, self.hidden, self.latent, _as_it_is)

    def _optimisers(self, net: nn.Module) -> Sequence[torch.optim.Optimizer]:
        assert isinstance(net, _GAN)
        # β1 = 0.5 keeps the two players from chasing old gradients (Radford et al. 2016).
        return [
            torch.optim.Adam(net.makers(), lr=self.learning_rate, betas=(0.5, 0.999)),
            torch.optim.Adam(net.discriminator.parameters(), lr=self.learning_rate, betas=(0.5, 0.999)),
        ]

    def _step(self, net: nn.Module, batch: Tensor, optimisers: Sequence[torch.optim.Optimizer]) -> float:
        assert isinstance(net, _GAN)
        makers, judge = optimisers
        noise = torch.randn(len(batch), self.latent, device=batch.device)
        with torch.no_grad():
            fakes = torch.cat([net.generator(noise), net.generator(net.encoder(batch))])
        # Hinge losses (Lim & Ye 2017): the discriminator sees real windows and both kinds of fakes.
        caught = F.relu(1.0 - net.discriminator(batch)).mean() + F.relu(1.0 + net.discriminator(fakes)).mean()
        descend(caught, net.discriminator.parameters(), judge)
        return descend(self._making(net, batch, noise), net.makers(), makers)

    def _loss(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _GAN)
        return self._making(net, inputs, torch.randn(len(inputs), self.latent, device=inputs.device))

    def _making(self, net: _GAN, batch: Tensor, noise: Tensor) -> Tensor:
        invented = net.generator(noise)
        again = net.generator(net.encoder(batch))
        fooling = -net.discriminator(invented).mean() - net.discriminator(again).mean()
        consistency = (net.encoder(invented) - noise).square().mean()
        loss: Tensor = (again - batch).square().mean() + 0.1 * consistency + self.adversarial_weight * fooling
        return loss

    def _reconstruct(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _GAN)
        out: Tensor = net.generator(net.encoder(inputs))
        return out

    def _trained(self, net: nn.Module, inputs: Tensor) -> None:
        assert isinstance(net, _GAN)
        for layer in net.discriminator:
            if is_parametrized(layer):  # normalising once is enough when nothing learns any more
                remove_parametrizations(layer, "weight")
        with torch.inference_mode():
            invented = net.generator(torch.randn(1024, self.latent))
        real = inputs.std(dim=0, correction=0)
        self.diversity = float(invented.std(dim=0).mean() / real.mean().clamp_min(1e-6))
        if self.diversity < LEAST_DIVERSITY and float(real.mean()) > 1e-3:
            raise TrainingFailed(
                f"The {self.name} detector's generator collapsed: what it invents varies {self.diversity:.0%} as much as the data.",
                hint="Train longer (training.epochs), lower training.learning_rate, or leave this detector out.",
            )
        errors = self._size(self._errors_of(net, inputs.numpy()))
        self._scales = {"error": _centre_spread(errors), "confidence": _centre_spread(self._confidence(net, inputs.numpy()))}

    def score(self, features: Features) -> F64:
        """Float64 (n,): reconstruction error and doubt, each in units of its training spread, weighted."""
        net, inputs = self._ready(features)
        errors, confidence = self._size(self._errors_of(net, inputs)), self._confidence(net, inputs)
        (usual, spread), (sure, wavering) = self._scales["error"], self._scales["confidence"]
        doubt = np.abs(confidence - sure) / wavering
        score: F64 = (1.0 - self.doubt_weight) * (errors - usual) / spread + self.doubt_weight * doubt
        return score

    def _confidence(self, net: nn.Module, inputs: NDArray[np.float32]) -> F64:
        assert isinstance(net, _GAN)
        with torch.inference_mode():
            confidence: F64 = net.discriminator(torch.from_numpy(inputs))[:, 0].numpy().astype(np.float64)
        return confidence

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Architecture, weights, and the scales of both parts of the score."""
        settings, arrays = super().state()
        scales = {key: list(value) for key, value in self._scales.items()}
        return {**settings, "scales": scales, "doubt_weight": self.doubt_weight, "diversity": self.diversity}, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        super().restore(settings, arrays)
        self._scales = {
            key: (float(settings["scales"][key][0]), float(settings["scales"][key][1])) for key in ("error", "confidence")
        }
        self.doubt_weight, self.diversity = float(settings["doubt_weight"]), float(settings["diversity"])


class _GAN(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int], latent: int, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_blocks([width, *hidden]), nn.Linear(hidden[-1], latent))
        self.generator = nn.Sequential(*_blocks([latent, *hidden[::-1]]), nn.Linear(hidden[0], width))
        judged: list[nn.Module] = []
        for before, after in itertools.pairwise([width, *hidden]):
            judged += [norm(nn.Linear(before, after)), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*judged, norm(nn.Linear(hidden[-1], 1)))

    def makers(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.generator.parameters()]


def _blocks(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.LeakyReLU(0.2)]
    return layers


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer


def _centre_spread(values: F64) -> tuple[float, float]:
    return float(np.median(values)), max(float(values.std()), 1e-6)
