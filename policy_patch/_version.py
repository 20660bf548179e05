"""The version of the package, in a file of its own.

It imports nothing, so that code that only writes the version into a file loads nothing else.
"""

__version__ = "0.1.0"
