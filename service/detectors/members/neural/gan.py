"""A generative adversarial detector over window statistics, with an encoder so that scoring needs no search per window.

The encoder E and the generator G learn to reconstruct windows (``G(E(x)) ≈ x``) and to generate them from noise (``G(z)``);
the discriminator D learns to separate real windows from both. The score combines the reconstruction error with D's confidence in
the window, each in units of its own training spread (after MAD-GAN, Li et al. 2019, and f-AnoGAN, Schlegl et al. 2019,
whose encoder replaces the search). D is trained only on real windows and on fakes that resemble them, so far from both its
confidence may be wrong in either direction: the score uses how far it lies from its median in training.

Against mode collapse: spectral normalisation of D (Miyato et al. 2018), a latent consistency term ``E(G(z)) ≈ z`` (as in
ALAD, Zenati et al. 2018), and a check after training that generated windows vary like real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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

# Below this ratio of the standard deviations of generated and real windows the generator counts as collapsed.
LEAST_DIVERSITY = 0.1


class _Scale(NamedTuple):
    centre: float
    spread: float


class GANAnomalyDetector(NeuralDetector):
    """Reconstruction error of encoder and generator, plus how unusual the discriminator's confidence is.

    Options: ``doubt_weight``: the discriminator's part in the score, in [0, 1]; ``adversarial_weight``: the weight, in the
    generator's loss, of deceiving the discriminator; and those of ``NeuralDetector``.

    Example: ``training: {detectors: {gan: {weight: 1.0, doubt_weight: 0.1}}}``
    """

    default_name = "gan"
    last_epochs = 0  # more epochs would change the balance of the two networks that early stopping chose

    def __init__(self, *, doubt_weight: float = 0.1, adversarial_weight: float = 0.1, **options: Any) -> None:
        """``options``: those of ``NeuralDetector``."""
        super().__init__(**options)
        self.doubt_weight = doubt_weight
        self.adversarial_weight = adversarial_weight
        self.diversity = 0.0
        self._error_scale = self._confidence_scale = _Scale(0.0, 1.0)

    def _build(self, width: int) -> nn.Module:
        return _GAN(width, self.hidden, self.latent, spectral_norm)

    def _skeleton(self, width: int) -> nn.Module:
        return _GAN(width, self.hidden, self.latent, _as_it_is)

    def _optimisers(self, net: nn.Module) -> Sequence[torch.optim.Optimizer]:
        assert isinstance(net, _GAN)
        # β1 = 0.5 keeps the two players from chasing old gradients (Radford et al. 2016).
        return [
            torch.optim.Adam(net.generator_parameters(), lr=self.learning_rate, betas=(0.5, 0.999)),
            torch.optim.Adam(net.discriminator.parameters(), lr=self.learning_rate, betas=(0.5, 0.999)),
        ]

    def _step(self, net: nn.Module, batch: Tensor, optimisers: Sequence[torch.optim.Optimizer]) -> float:
        assert isinstance(net, _GAN)
        generator_optimiser, discriminator_optimiser = optimisers
        noise = torch.randn(len(batch), self.latent, device=batch.device)
        with torch.no_grad():
            fakes = torch.cat([net.generator(noise), net.generator(net.encoder(batch))])
        # Hinge losses (Lim & Ye 2017): the discriminator sees real windows and both kinds of fakes.
        discriminator_loss = F.relu(1.0 - net.discriminator(batch)).mean() + F.relu(1.0 + net.discriminator(fakes)).mean()
        descend(discriminator_loss, net.discriminator.parameters(), discriminator_optimiser)
        return descend(self._generator_loss(net, batch, noise), net.generator_parameters(), generator_optimiser)

    def _loss(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _GAN)
        return self._generator_loss(net, inputs, torch.randn(len(inputs), self.latent, device=inputs.device))

    def _generator_loss(self, net: _GAN, batch: Tensor, noise: Tensor) -> Tensor:
        generated = net.generator(noise)
        reconstructed = net.generator(net.encoder(batch))
        adversarial = -net.discriminator(generated).mean() - net.discriminator(reconstructed).mean()
        consistency = (net.encoder(generated) - noise).square().mean()
        loss: Tensor = (reconstructed - batch).square().mean() + 0.1 * consistency + self.adversarial_weight * adversarial
        return loss

    def _reconstruct(self, net: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(net, _GAN)
        out: Tensor = net.generator(net.encoder(inputs))
        return out

    def _trained(self, net: nn.Module, inputs: Tensor) -> None:
        assert isinstance(net, _GAN)
        for layer in net.discriminator:
            if is_parametrized(layer):  # after training, normalising once is enough
                remove_parametrizations(layer, "weight")
        with torch.inference_mode():
            generated = net.generator(torch.randn(1024, self.latent))
        real = inputs.std(dim=0, correction=0)
        self.diversity = float(generated.std(dim=0).mean() / real.mean().clamp_min(1e-6))
        if self.diversity < LEAST_DIVERSITY and float(real.mean()) > 1e-3:
            raise TrainingFailed(
                f"The {self.name} detector's generator collapsed: its windows vary {self.diversity:.0%} as much as the data.",
                hint="Train longer (training.epochs), lower training.learning_rate, or leave this detector out.",
            )
        errors = self._size(self._errors_of(net, inputs.numpy()))
        self._error_scale = _scale_of(errors)
        self._confidence_scale = _scale_of(self._confidence(net, inputs.numpy()))

    def score(self, features: Features) -> F64:
        """Float64 (n,): reconstruction error and the discriminator's doubt, each in units of its training spread, weighted."""
        net, inputs = self._ready(features)
        errors, confidence = self._size(self._errors_of(net, inputs)), self._confidence(net, inputs)
        error, usual = self._error_scale, self._confidence_scale
        doubt = np.abs(confidence - usual.centre) / usual.spread
        score: F64 = (1.0 - self.doubt_weight) * (errors - error.centre) / error.spread + self.doubt_weight * doubt
        return score

    def _confidence(self, net: nn.Module, inputs: NDArray[np.float32]) -> F64:
        assert isinstance(net, _GAN)
        with torch.inference_mode():
            confidence: F64 = net.discriminator(torch.from_numpy(inputs))[:, 0].numpy().astype(np.float64)
        return confidence

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Architecture, weights, and the scales of both parts of the score."""
        settings, arrays = super().state()
        scales = {"error": list(self._error_scale), "confidence": list(self._confidence_scale)}
        return {**settings, "scales": scales, "doubt_weight": self.doubt_weight, "diversity": self.diversity}, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        super().restore(settings, arrays)
        scales = settings["scales"]
        self._error_scale, self._confidence_scale = _Scale(*scales["error"]), _Scale(*scales["confidence"])
        self.doubt_weight, self.diversity = float(settings["doubt_weight"]), float(settings["diversity"])


class _GAN(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int], latent: int, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_blocks([width, *hidden]), nn.Linear(hidden[-1], latent))
        self.generator = nn.Sequential(*_blocks([latent, *hidden[::-1]]), nn.Linear(hidden[0], width))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([width, *hidden]):
            layers += [norm(nn.Linear(before, after)), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers, norm(nn.Linear(hidden[-1], 1)))

    def generator_parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.generator.parameters()]


def _blocks(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.LeakyReLU(0.2)]
    return layers


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer


def _scale_of(values: F64) -> _Scale:
    return _Scale(float(np.median(values)), max(float(values.std()), 1e-6))
