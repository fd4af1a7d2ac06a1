"""Sliding windows over every entity, and the scoring part."""
