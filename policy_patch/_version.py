"""The version of the package, alone in its file: what writes it into files needs nothing else of the package."""

__version__ = "0.1.0"
