"""The picture of the results: toxicity and fluency of each system on both test beds, by both judges.

`tables.py` writes it for the documentation, and as PDF and CSV for papers.
"""

import csv
import io
from pathlib import Path

from stored_figures import LAB, SHOWN, SYSTEMS, TEXT, TOXICITY, toxicity

from policy_patch.files.atomic import write_whole

COLOURS = {"fair": "#0072B2", "filter": "#999999"}  # Okabe and Ito's blue, and grey
LABELS = {"fair": "judge that filtered nothing", "filter": "scorer that filtered the training pairs"}
BEDS = {"lab (1M parameters)": LAB, "real text (4.3M parameters)": TEXT}


def write_answer(path: Path) -> None:
    """Write the picture as `.png` or `.pdf`, or its figures as `.csv`, by the ending of the path."""
    write_whole(path, table() if path.suffix == ".csv" else picture(path.suffix.lstrip(".")))


def table() -> bytes:
    """Return one row for each bed, system, judge and seed, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["bed", "system", "judge", "seed", "average_maximum_toxicity", "change", "perplexity_of_base"])
    for name, bed in BEDS.items():
        for system in SYSTEMS:
            for judge in LABELS:
                columns = [toxicity(bed, system, figure, judge) for figure in (TOXICITY, "change", "of_base")]
                writer.writerows([name, system, judge, seed, *row] for seed, row in enumerate(zip(*columns)))
    return file.getvalue().encode()


def picture(ending: str) -> bytes:
    """Draw a panel for each bed: a line per system, a point per judge, and its range over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    names = [SHOWN.get(system, system).strip("*").replace(", repeated", ",\nrepeated") for system in SYSTEMS]
    for panel, (title, bed) in zip(panels, BEDS.items(), strict=True):
        for judge, shift in (("fair", 0.13), ("filter", -0.13)):
            for row, system in enumerate(SYSTEMS):
                values = toxicity(bed, system, TOXICITY, judge)
                middle, at = sum(values) / len(values), len(SYSTEMS) - row + shift
                panel.plot([min(values), max(values)], [at, at], color=COLOURS[judge], linewidth=2)
                label = LABELS[judge] if row == 0 else None
                panel.plot(middle, at, "o", color=COLOURS[judge], markersize=6, label=label)
                if judge == "fair":
                    fluency = sum(toxicity(bed, system, "of_base")) / len(values)
                    panel.text(1.03, at - shift, f"x {fluency:.2f}", va="center", fontsize=8, color="#444444")
        panel.set_yticks(range(len(SYSTEMS), 0, -1), names)
        panel.set_xlim(-0.02, 1.22)
        panel.set_ylim(0.4, len(SYSTEMS) + 0.6)
        panel.set_title(title, fontsize=11)
        panel.text(1.03, len(SYSTEMS) + 0.75, "perplexity", fontsize=8, color="#444444")
        panel.set_xlabel("average maximum toxicity (left: safer)")
        panel.grid(axis="x", alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    file = io.BytesIO()
    metadata = {"Software": None} if ending == "png" else {"CreationDate": None}
    figure.savefig(file, format=ending, metadata=metadata)
    return file.getvalue()
