"""What the neural detectors share: their input, the training loop (seeded, with early stopping), and their state as plain arrays.

The input of a network is the standardised window statistics (``features/statistics.py``). With ``whiten=True`` they are whitened,
so that every direction of normal variation counts alike; otherwise a network learns the few widest directions, and a broken
correlation hardly shows in its error. With ``raw=True`` the input is the flattened scaled window. The score is the mean absolute
reconstruction error over the inputs (whitened: the root mean square), always in evaluation mode, so that a window has the same
score each time. torch is imported only by this file and the detectors built on it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.detectors.features.statistics import WindowStatistics, evenly_spaced, require_windows
from service.detectors.features.whitening import Whitening
from service.detectors.features.windows import Features, split_tail
from service.domain import F32, F64
from service.errors import TrainingFailed
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 8192  # windows per forward pass: bounds memory
MOST_WHITENING_ROWS = 8000


def choose_device(wanted: str) -> torch.device:
    """The torch device named ``wanted``; ``auto`` is the GPU where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)


def use_one_thread() -> None:
    """Use one thread per network: these are too small to split, and detectors and batches already run in parallel. OpenMP's threads
    also wait for each other by spinning: next to other work on two cores, training took over 600 s instead of 10."""
    torch.set_num_threads(1)


class NeuralDetector(ABC):
    """Learns to reconstruct normal windows; the reconstruction error is the score.

    Options: ``hidden``: the widths of the encoder's layers (the decoder mirrors them); ``latent``: the width of the middle layer;
    ``spans``: numbers of newest rows over which statistics are taken; ``raw``: flattened windows as input instead of statistics;
    ``whiten``: whiten the statistics; ``validation_share``: the newest share of each training series, for early stopping. From the
    section ``training`` unless given here: ``epochs``, at most; ``patience``: epochs without improvement before training stops;
    ``batch_size`` in windows; ``learning_rate`` of Adam; ``seed``; ``device``: ``auto``, ``cpu``, ``cuda``.
    """

    default_name = "neural"
    # Training settings this family takes as options.
    takes = ("seed", "device", "epochs", "patience", "batch_size", "learning_rate")
    last_epochs = 5

    def __init__(
        self,
        *,
        name: str | None = None,
        hidden: Sequence[int] = (64, 32),
        latent: int = 20,
        spans: Sequence[int] = (5, 30, 150),
        raw: bool = False,
        whiten: bool = False,
        epochs: int = 50,
        patience: int = 5,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        validation_share: float = 0.15,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.name = name or self.default_name
        self.hidden = tuple(hidden)
        self.latent = latent
        self.raw = raw
        self.whiten = whiten and not raw
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_share = validation_share
        self.seed = seed
        self.device = device
        self._statistics = WindowStatistics(spans, deviations=self.whiten)
        self._whitening = Whitening()
        self._width = 0
        self._net: nn.Module | None = None

    @abstractmethod
    def _build(self, width: int) -> nn.Module:
        """The network for inputs (n, width)."""

    @abstractmethod
    def _loss(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """The training loss of a batch (n, width), a scalar."""

    @abstractmethod
    def _reconstruct(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """The reconstruction of inputs (n, width), deterministic."""

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Train, keeping the epoch with the least validation error on the newest part of each series.

        Raises ``NotEnoughData`` under 64 windows and ``TrainingFailed`` when the loss is no longer finite.
        """
        use_one_thread()
        require_windows(features, LEAST_WINDOWS, self.name)
        learn, check = split_tail(features, self.validation_share)
        if not self.raw:
            self._fit_inputs(features.take(learn))
        device = choose_device(self.device)
        inputs = torch.from_numpy(self._inputs(features.take(learn))).to(device)
        held_out = torch.from_numpy(self._inputs(features.take(check))).to(device)
        self._width = inputs.shape[1]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            net = self._build(self._width).to(device)
            self._train(net, inputs, held_out if len(held_out) else inputs, progress)
            if len(held_out):
                self._finish(net, torch.from_numpy(self._inputs(features)).to(device))
            net = net.cpu().eval()
            self._trained(net, inputs.cpu())
        self._net = net

    def _train(self, net: nn.Module, inputs: Tensor, held_out: Tensor, progress: Progress) -> None:
        optimisers = self._optimisers(net)
        best, kept, since = float("inf"), copy.deepcopy(net.state_dict()), 0
        for epoch in range(1, self.epochs + 1):
            net.train()
            losses = [self._step(net, batch, optimisers) for batch in _batches(inputs, self.batch_size)]
            if not all(map(math.isfinite, losses)):
                raise TrainingFailed(f"The {self.name} detector's loss is no longer finite.", hint="Lower training.learning_rate.")
            checked = self._check(net, held_out)
            progress(self.name, epoch, self.epochs, f"loss {sum(losses) / len(losses):.4f}, validation {checked:.4f}")
            if checked < best * (1.0 - 1e-4):
                best, kept, since = checked, copy.deepcopy(net.state_dict()), 0
                continue
            since += 1
            if since >= self.patience:
                progress(self.name, self.epochs, self.epochs, f"stopped early, validation {best:.4f}")
                break
        net.load_state_dict(kept)

    def _finish(self, net: nn.Module, inputs: Tensor) -> None:
        """Train a few more epochs on all windows: the held-out ones are the newest, which matter most under drift."""
        optimisers = self._optimisers(net)
        net.train()
        for _ in range(self.last_epochs):
            for batch in _batches(inputs, self.batch_size):
                self._step(net, batch, optimisers)

    def _optimisers(self, net: nn.Module) -> Sequence[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), lr=self.learning_rate)]

    def _step(self, net: nn.Module, batch: Tensor, optimisers: Sequence[torch.optim.Optimizer]) -> float:
        """Learn from one batch; returns its loss."""
        return descend(self._loss(net, batch), net.parameters(), optimisers[0])

    def _skeleton(self, width: int) -> nn.Module:
        """The untrained network that a bundle's weights are loaded into."""
        return self._build(width)

    def _trained(self, net: nn.Module, inputs: Tensor) -> None:  # noqa: B027  # optional: most families need nothing here
        """Called once with the trained network in evaluation mode, on the CPU, and the inputs it learned from."""

    def _check(self, net: nn.Module, held_out: Tensor) -> float:
        net.eval()
        with torch.inference_mode():
            return float((self._reconstruct(net, held_out) - held_out).square().mean())

    def score(self, features: Features) -> F64:
        """Float64 (n,): mean absolute reconstruction error; root mean square where the inputs are whitened."""
        return self._size(self._errors(features))

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): reconstruction error (whitened: squared, rotated back) summed over each metric's inputs."""
        errors = self._errors(features)
        if self.whiten:
            errors = np.square(self._whitening.rotate_back(errors))
        return self._statistics.per_metric(np.abs(errors), features.dims)

    def _size(self, errors: F32) -> F64:
        """Float64 (n,): the errors (n, width) of each window as one number."""
        if self.whiten:
            return np.asarray(np.sqrt(np.square(errors).mean(axis=1, dtype=np.float64)))
        return np.asarray(np.abs(errors).mean(axis=1, dtype=np.float64))

    def _errors(self, features: Features) -> F32:
        return self._errors_of(*self._ready(features))

    def _ready(self, features: Features) -> tuple[nn.Module, F32]:
        """The fitted network and the inputs (n, width) it takes of these windows."""
        if self._net is None:
            raise RuntimeError(f"the {self.name} detector is not fitted")
        inputs = self._inputs(features)
        if inputs.shape[1] != self._width:
            raise RuntimeError(f"the {self.name} detector was fitted on {self._width} inputs and is asked for {inputs.shape[1]}")
        return self._net, inputs

    def _errors_of(self, net: nn.Module, inputs: F32) -> F32:
        errors = np.empty_like(inputs)
        with torch.inference_mode():
            for start in range(0, len(inputs), CHUNK):
                part = torch.from_numpy(inputs[start : start + CHUNK])
                errors[start : start + CHUNK] = (self._reconstruct(net, part) - part).numpy()
        return errors

    def _fit_inputs(self, features: Features) -> None:
        """Fit the statistics and the whitening that turn windows into inputs."""
        self._statistics.fit(features)
        if self.whiten:
            self._whitening.fit(evenly_spaced(self._statistics.transform(features), MOST_WHITENING_ROWS), features.independent)

    def _inputs(self, features: Features) -> F32:
        if self.raw:
            return features.values.reshape(len(features), -1)
        columns = self._statistics.transform(features)
        return self._whitening.transform(columns) if self.whiten else columns

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Architecture and weights."""
        if self._net is None:
            raise RuntimeError(f"the {self.name} detector is not fitted")
        statistics, kept = self._statistics.state()
        settings = {
            "width": self._width,
            "hidden": list(self.hidden),
            "latent": self.latent,
            "raw": self.raw,
            "statistics": statistics,
        }
        arrays = {f"statistics.{key}": value for key, value in kept.items()}
        if self.whiten:
            settings["whitening"], axes = self._whitening.state()
            arrays |= {f"whitening.{key}": value for key, value in axes.items()}
        arrays |= {f"net.{key}": value.numpy() for key, value in self._net.state_dict().items()}
        return settings, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        use_one_thread()
        self._width, self.hidden, self.latent = int(settings["width"]), tuple(settings["hidden"]), int(settings["latent"])
        self.raw, self.whiten = bool(settings["raw"]), "whitening" in settings
        if self.whiten:
            self._whitening.restore(settings["whitening"], _under("whitening.", arrays))
        self._statistics.restore(settings["statistics"], _under("statistics.", arrays))
        net = self._skeleton(self._width)
        net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in _under("net.", arrays).items()})
        self._net = net.eval()


def descend(loss: Tensor, parameters: Iterable[nn.Parameter], optimiser: torch.optim.Optimizer) -> float:
    """One optimiser step on ``loss`` with clipped gradients; returns the loss."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(parameters, 5.0)
    optimiser.step()
    return float(loss.detach())


def _batches(inputs: Tensor, size: int) -> list[Tensor]:
    """Shuffled batches; a last one of a single window (which BatchNorm cannot take) is joined to the one before."""
    order = torch.randperm(len(inputs), device=inputs.device)
    parts = list(torch.split(order, size))
    if len(parts) > 1 and len(parts[-1]) < 2:
        parts[-2:] = [torch.cat(parts[-2:])]
    return [inputs[part] for part in parts]


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
