"""The detectors that are neural networks; the only files that import torch."""
