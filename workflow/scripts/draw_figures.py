"""Adapter of rule figures: table and run files in, SVG and PNG out."""

import contextlib
from pathlib import Path

from saddleflow.analysis.figures import draw_figures

with open(snakemake.log[0], "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
    folder = Path(snakemake.output[0]).parent
    for path in draw_figures(snakemake.input.summary, snakemake.params.results, folder):
        print(path)
