"""Packages as a user would install them, for tests: modules, and metadata with entry points, in a folder."""

from pathlib import Path


def install(folder: Path, name: str, points: dict[str, dict[str, str]], **modules: str) -> None:
    """Write a package into a folder that is to stand on the path.

    `points` is group -> name -> value; `modules` is name -> source.
    """
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, of in points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in of.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
