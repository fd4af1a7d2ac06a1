"""The detectors that are neural networks. Only these import torch."""
