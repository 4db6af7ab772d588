"""Shows what a search found, for people: rank, cosine, feature, F1 with its interval, and the label beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from queries.terminal.cells import cell, padded, wrapped
from queries.terminal.control_characters import Ink

_LABEL_LINES = 2
_SHORTEST_LABEL = 24


def search_lines(rows: Sequence[Mapping[str, Any]], width: int, ink: Ink) -> list[str]:
    """Two lines for each row at most, none wider than `width`; where there is no room beside, the label stands below.

    SAE and explainer are named where they differ among the rows.
    """
    heads = {"rank": [str(row["rank"]) for row in rows], "cosine": [f"{row['similarity']:.3f}" for row in rows]}
    for name in ("sae", "explainer"):
        if len({row[name] for row in rows}) > 1:
            heads[name] = [cell(row[name]) for row in rows]
    heads["feature"] = [str(row["feature"]) for row in rows]
    heads["F1 (95%)"] = [f1_with_interval(row) for row in rows]
    sizes = {name: min(max(map(cell_len, (name, *cells))), max(width // 4, 8)) for name, cells in heads.items()}
    sizes["F1 (95%)"] = max(map(cell_len, ("F1 (95%)", *heads["F1 (95%)"])))
    # The smaller name of an SAE must give way, not the label.
    beside = sum(sizes.values()) + 2 * len(sizes)
    below = width - beside < _SHORTEST_LABEL
    indent = 4 if below else beside
    lines = [ink.bold(_head(dict(zip(heads, heads, strict=True)), sizes, width) + ("" if below else "  label"))]
    for index, row in enumerate(rows):
        text = wrapped(cell(row["label"]), width - indent, _LABEL_LINES)
        head = _head({name: cells[index] for name, cells in heads.items()}, sizes, width)
        if below:
            lines += [head, *(" " * indent + line for line in text)]
        else:
            lines += [f"{head}  {text[0]}", *(" " * indent + line for line in text[1:])]
    return [line.rstrip() for line in lines]


def _head(texts: Mapping[str, str], sizes: Mapping[str, int], width: int) -> str:
    line = "  ".join(
        padded(text, sizes[name], right=name in ("rank", "cosine", "feature")) for name, text in texts.items()
    )
    return padded(line, min(cell_len(line), width))


def f1_with_interval(row: Mapping[str, Any]) -> str:
    """`0.78 (0.66-0.87)`, or that there is none."""
    if row["f1"] is None:
        return "not scored"
    if row["f1_low"] is None or row["f1_high"] is None:
        return f"{row['f1']:.2f}"
    return f"{row['f1']:.2f} ({row['f1_low']:.2f}-{row['f1_high']:.2f})"
