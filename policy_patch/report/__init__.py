"""The report of an evaluation: metrics, figures with intervals, comparisons; as JSON, tables and pictures.

`evaluation.json` is read and written here and nowhere else. Nothing is measured here.
"""
