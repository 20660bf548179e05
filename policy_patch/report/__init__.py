"""The report of an evaluation: metrics, figures with intervals and comparisons, as JSON, tables and pictures.

Only this room reads and writes `evaluation.json`. It measures nothing. From the ground up: `metric`, `intervals` and
`comparisons` compute figures; `records` and `findings` hold a report; `tables`, `plots` and `evaluation_json` are its
three forms; `report` has the type that the rest of the package uses.
"""
