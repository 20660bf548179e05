"""Files, trusted or not: JSON and YAML are read within limits, files are written whole, folders are locked.

The callers know what a file contains.
"""
