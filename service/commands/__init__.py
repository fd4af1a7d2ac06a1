"""The commands of ``tidewatch``, a file for each group of them; ``service.cli`` puts them together.

These files import what a command needs inside the command, so that ``tidewatch --help`` and mistakes answer at once and not
after numba, scikit-learn and the clients were loaded.
"""
