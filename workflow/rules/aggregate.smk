"""All searches in one table, and the table in figures."""

import saddleflow


rule summarise:
    input:
        run_files(),
        verification_files(),
        plan=f"{RESULTS}/inputs/plan.json",
    output:
        csv=report(
            f"{RESULTS}/summary.csv", caption="../report/summary.rst", category="Table"
        ),
        parquet=f"{RESULTS}/summary.parquet",
    log:
        f"{RESULTS}/logs/summarise.log",
    benchmark:
        f"{RESULTS}/benchmarks/summarise.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime="30m",
    params:
        results=lambda wildcards, input: str(Path(input.plan).parent.parent),
    message:
        "Summarising all searches in one table"
    shell:
        "saddleflow summarise {params.results:q} > {log:q} 2>&1"


rule figures:
    input:
        summary=f"{RESULTS}/summary.csv",
        # Whoever edits how figures are drawn gets new figures, and nothing else runs again.
        script=os.path.relpath(
            Path(workflow.basedir) / "workflow/scripts/draw_figures.py"
        ),
        code=sorted((Path(saddleflow.__file__).parent / "analysis").glob("figure*.py")),
    output:
        report(
            expand(f"{RESULTS}/figures/{{name}}.svg", name=FIGURES),
            caption="../report/figures.rst",
            category="Figures",
        ),
        expand(f"{RESULTS}/figures/{{name}}.png", name=FIGURES),
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        results=lambda wildcards, input: str(Path(input.summary).parent),
    message:
        "Drawing figures"
    script:
        "../scripts/draw_figures.py"
