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
    """Everything that rule all asks for."""
    tables = [f"{RESULTS}/summary.csv", f"{RESULTS}/summary.parquet"]
    return tables + expand(
        f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURES, kind=["svg", "png"]
    )
