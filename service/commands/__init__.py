"""The commands of ``tidewatch``, a file for each group of them; ``service.cli`` puts them together."""
