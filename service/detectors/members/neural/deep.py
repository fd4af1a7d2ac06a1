"""The deep detector of the default ensemble."""

from __future__ import annotations

from service.detectors.members.neural.vae import VAEAnomalyDetector


class DeepAnomalyDetector(VAEAnomalyDetector):
    """The variational autoencoder with the service's defaults: hidden 64-32, latent 20, β 0.1, dropout 0.2."""

    default_name = "deep"
