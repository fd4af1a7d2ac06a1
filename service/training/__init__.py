"""From normal data to a bundle, and from a bundle to honest figures."""
