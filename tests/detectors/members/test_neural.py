"""The neural families: what is particular to each."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.detectors.features.windows import Features
from service.detectors.members.neural.autoencoder import AutoencoderAnomalyDetector
from service.detectors.members.neural.deep import DeepAnomalyDetector
from service.detectors.members.neural.gan import GANAnomalyDetector
from service.detectors.members.neural.vae import VAEAnomalyDetector
from service.domain import F32
from service.errors import TrainingFailed

QUICK: dict[str, Any] = {"epochs": 6, "hidden": (32, 16), "latent": 4}


def rows(count: int, dims: int = 4, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    hidden = np.sin(np.arange(count)[:, None] / 8) + 0.3 * rng.standard_normal((count, 1))
    return (hidden * np.linspace(0.5, 1.5, dims) + 0.2 * rng.standard_normal((count, dims))).astype(np.float32)


def windows(values: F32, window: int = 20) -> Features:
    return Features(values, np.arange(window, len(values) + 1), window)


def test_the_vae_is_made_of_linear_layernorm_relu_dropout_blocks_and_scored_without_dropout() -> None:
    detector = VAEAnomalyDetector(**QUICK)
    detector.fit(windows(rows(400)))
    net = detector._net
    assert net is not None
    assert not net.training
    blocks = [type(layer) for layer in net.encoder][:4]  # type: ignore[union-attr]  # nn.Module attributes are untyped
    assert blocks == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Dropout]
    assert {layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)} == {0.2}
    torch.manual_seed(1)
    once = detector.score(windows(rows(100, seed=1)))
    torch.manual_seed(2)
    np.testing.assert_array_equal(detector.score(windows(rows(100, seed=1))), once)


def test_the_deep_detector_is_the_vae_with_the_designs_defaults() -> None:
    detector = DeepAnomalyDetector()
    assert isinstance(detector, VAEAnomalyDetector)
    assert (detector.hidden, detector.latent, detector.beta) == ((64, 32), 20, 0.1)


def test_the_callers_lists_stay_as_they_are() -> None:
    hidden, spans = [16, 8], [3, 9]
    detector = AutoencoderAnomalyDetector(hidden=hidden, spans=spans, latent=3, epochs=1)
    detector.fit(windows(rows(200)))
    assert (hidden, spans) == ([16, 8], [3, 9])


def test_raw_windows_can_be_learned_in_place_of_statistics() -> None:
    detector = VAEAnomalyDetector(raw=True, **QUICK)
    seen = windows(rows(400))
    detector.fit(seen)
    assert detector.state()[0]["width"] == 20 * 4
    assert detector.attribute(seen).shape == (len(seen), 4)


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    VAEAnomalyDetector(**QUICK).fit(windows(rows(200)))
    assert torch.equal(torch.rand(3), expected)


def test_progress_reports_the_loss_and_training_stops_early() -> None:
    reported: list[tuple[str, int, int, str]] = []
    detector = AutoencoderAnomalyDetector(epochs=200, patience=2, learning_rate=0.02, hidden=(16,), latent=2)
    detector.fit(windows(rows(300)), progress=lambda *given: reported.append(given))
    stage, done, total, detail = reported[0]
    assert (stage, done, total) == ("autoencoder", 1, 200)
    assert detail.startswith("loss ")
    assert "validation" in detail
    assert len(reported) < 200
    assert reported[-1][1] == 200
    assert "stopped early" in reported[-1][3]


def test_the_autoencoders_plain_thresholds_exist_only_after_training() -> None:
    detector = AutoencoderAnomalyDetector(**QUICK)
    with pytest.raises(RuntimeError, match="not fitted"):
        detector.threshold()
    seen = windows(rows(400))
    detector.fit(seen)
    two, three = detector.threshold(2), detector.threshold(3)
    beyond = detector.score(seen) > two
    assert 0 < two < three
    assert beyond.mean() < 0.15
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in detector._net.modules())  # type: ignore[union-attr]  # fitted above


def test_the_gans_discriminator_sees_real_windows_and_fakes_and_tells_them_apart() -> None:
    detector = GANAnomalyDetector(epochs=40, hidden=(32, 16), latent=4)
    seen = windows(rows(600))
    detector.fit(seen)
    net, inputs = detector._ready(seen)
    with torch.inference_mode():
        invented = net.generator(torch.randn(500, 4)).numpy()  # type: ignore[operator]  # nn.Module attributes are untyped
    assert np.median(detector._confidence(net, inputs)) > np.median(detector._confidence(net, invented)) + 0.1
    assert detector.diversity > 0.1


def test_the_gans_doubt_alone_rises_for_windows_unlike_any_it_saw() -> None:
    detector = GANAnomalyDetector(epochs=40, hidden=(32, 16), latent=4, doubt_weight=1.0)
    detector.fit(windows(rows(600)))
    odd = rows(100, seed=1) * np.array([1, -4, 1, 4], np.float32)
    assert np.median(detector.score(windows(odd))) > 2 * np.median(detector.score(windows(rows(100, seed=1))))


def test_a_collapsed_generator_fails_training_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = GANAnomalyDetector(**QUICK)

    def only_stay_put(net: Any, batch: Tensor, noise: Tensor) -> Tensor:
        invented: Tensor = net.generator(noise)
        loss: Tensor = invented.square().mean() + net.generator(net.encoder(batch)).square().mean()
        return loss

    monkeypatch.setattr(detector, "_generator_loss", only_stay_put)
    detector.epochs, detector.learning_rate, detector.patience = 60, 0.02, 60
    # The epoch kept is the one that reconstructs best; here the last is wanted.
    falling = iter(range(100, 0, -1))
    monkeypatch.setattr(detector, "_check", lambda net, held_out: float(next(falling)))
    with pytest.raises(TrainingFailed, match="collapsed") as refused:
        detector.fit(windows(rows(400)))
    assert refused.value.hint


def test_a_loss_that_runs_away_fails_training_and_says_so() -> None:
    with pytest.raises(TrainingFailed, match="no longer finite"):
        AutoencoderAnomalyDetector(epochs=50, learning_rate=1e30).fit(windows(rows(300)))


def test_the_statistical_detector_never_imports_torch() -> None:
    program = (
        "import sys, service.detectors.members.statistical, service.detectors.window_scorer, service.training.train;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
