"""What a run has to produce; the only place that expands names into files."""

from saddleflow.analysis.figure_names import FIGURES


def run_files():
    """Run file of every search."""
    return expand(
        f"{RESULTS}/searches/{{reaction}}/{{method}}.h5",
        reaction=plan.reaction_names,
        method=plan.method_names,
    )


def verification_files():
    """Verification file of every search."""
    return expand(
        f"{RESULTS}/verifications/{{reaction}}/{{method}}.h5",
        reaction=plan.reaction_names,
        method=plan.method_names,
    )


def final_output():
    """Everything that rule all asks for.

    Run files and verifications are named although the table needs them anyway: Snakemake does not miss an
    intermediate file as long as what depends on it exists, and after a failure a table exists without them.
    """
    tables = [f"{RESULTS}/summary.csv", f"{RESULTS}/summary.parquet"]
    pictures = expand(
        f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURES, kind=["svg", "png"]
    )
    return run_files() + verification_files() + tables + pictures
