"""The deep detector of the default ensemble."""

from __future__ import annotations

from service.detectors.members.neural.vae import VAEAnomalyDetector


class DeepAnomalyDetector(VAEAnomalyDetector):
    """The variational autoencoder (``vae``) under the name it has in the default ensemble: hidden 64-32, latent 20, β 0.1,
    dropout 0.2.

    Options: those of ``VAEAnomalyDetector``.

    Example: ``training: {detectors: {deep: {weight: 1.0, hidden: [64, 32]}}}``
    """

    default_name = "deep"
