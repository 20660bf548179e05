"""Files, ours and those of others: JSON and YAML read within limits, files written whole, folders locked.

What is in a file is the business of whoever reads it.
"""
