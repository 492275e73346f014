"""How all figures look: sizes, fonts, colours by method, axis helpers, and deterministic SVG and PNG.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart with all common kinds of
colour blindness; markers differ as well, so that a grey print still works.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from saddleflow.files import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6e6e6e"
PALE = "#d9d9d9"
SINGLE_COLUMN, DOUBLE_COLUMN = 3.5, 7.1
"""Widths in inches of one and two columns of a journal page."""

RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "saddleflow",
    "path.simplify": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the style inside the block, independent of the user's matplotlibrc."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def method_styles(methods: list[str]) -> dict[str, dict]:
    """Colour and marker of each method, fixed by its place in the configuration."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            # Past the last colour the marker moves on, so that no two of 49 methods look the same.
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        }
        for i, name in enumerate(methods)
    }


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of `width` times `height` inches, without pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str, resolution: int = 300) -> list[Path]:
    """Write NAME.svg and NAME.png into `folder`, each by atomic rename; same data, same bytes.

    Returns
    -------
    list of Path
        The two files.
    """
    written = []
    for kind, metadata in (
        ("svg", {"Date": None, "Creator": "saddleflow"}),
        ("png", {"Software": "saddleflow"}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=resolution, metadata=metadata)
        path = folder / f"{name}.{kind}"
        write_atomically(path, buffer.getvalue())
        written.append(path)
    return written


def empty_note(axes: Axes, text: str) -> None:
    """Say in the middle of an otherwise empty panel why there is nothing to see."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plain_log_axis(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis from `low` to `high` only, labelled with plain numbers.

    1, 2 and 5 of each decade where the axis spans few of them, more where that would leave less than three.
    Beyond the limits there are no ticks: a band for unsolved systems may lie there, in which the scale means
    nothing.
    """

    def ticks(subs: Sequence[float]) -> np.ndarray:
        values = np.asarray(LogLocator(subs=subs, numticks=100).tick_values(low, high))
        return values[(values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))]

    decades = np.log10(high / low)
    major = ticks((1, 2, 5) if decades < 2.2 else (1,))
    if len(major) < 3:
        major = ticks((1, 1.5, 2, 3, 4, 5, 7))
    if len(major) < 3:  # nearly linear
        values = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        major = np.round(values[(values >= low) & (values <= high)], 12)
    if decades > 8:  # every second or third power of ten
        major = major[:: int(np.ceil(decades / 6))]
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_locator(FixedLocator(ticks(range(2, 10)) if decades <= 8 else ticks((1,))))
    axis.set_minor_formatter(NullFormatter())


def plain_number(value: float, _position: int | None = None) -> str:
    """Number without exponent where that is short (0.01, 20, 3000), else as a power of ten."""
    if 1e-3 <= value < 1e5:
        return f"{value:.10g}"
    exponent = int(np.floor(np.log10(value)))
    mantissa = value / 10.0**exponent
    superscript = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{superscript}" if abs(mantissa - 1) < 1e-9 else f"{mantissa:.3g}·10{superscript}"


def log_limits(values: np.ndarray, margin: float = 1.25) -> tuple[float, float]:
    """Limits of a logarithmic axis around the positive finite `values`, at least a decade wide."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 1.0, 100.0
    low, high = values.min() / margin, values.max() * margin
    if high / low < 10:
        centre = np.sqrt(low * high)
        low, high = centre / np.sqrt(10), centre * np.sqrt(10)
    return float(low), float(high)
