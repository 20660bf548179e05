"""The report of an evaluation: metrics, figures with intervals, comparisons; as JSON, tables and pictures.

`evaluation.json` is read and written here and nowhere else. Nothing is measured here. From the ground up: `metric`,
`intervals` and `comparisons` (figures); `records` and `findings` (a report as data); `tables`, `plots` and
`evaluation_json` (its three forms); `report` (the type that the rest of the package takes).
"""
