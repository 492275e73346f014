"""One search: a reaction and a method in, a run file out."""


def learned_prior(wildcards):
    """What the pilot batch taught, for a search that uses it."""
    if plan.learns(wildcards.reaction, wildcards.method):
        return [f"{RESULTS}/learned_prior/{wildcards.method}.h5"]
    return []


rule search:
    input:
        reaction=f"{RESULTS}/inputs/reactions/{{reaction}}.json",
        method=f"{RESULTS}/inputs/methods/{{method}}.json",
        # Learning again does not make finished searches wrong.
        learned_prior=ancient(learned_prior),
    output:
        f"{RESULTS}/searches/{{reaction}}/{{method}}.h5",
    log:
        f"{RESULTS}/logs/search/{{reaction}}/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/search/{{reaction}}/{{method}}.tsv"
    priority: lambda wildcards: plan.priorities[wildcards.reaction]
    # A search that ends without a saddle is a result and no failure; only faults of the machine come here.
    retries: 2
    threads: plan.threads
    resources:
        mem_mb=lambda wildcards, attempt: (plan.memory_mb + 900) * min(attempt, 2),
        runtime="2h",
    params:
        # Not an output: Snakemake deletes the outputs of a failed job, and the next try goes on from here.
        journal=f"{RESULTS}/journals/{{reaction}}/{{method}}.jsonl",
        learned_prior=lambda wildcards, input: (
            ["--learned-prior", *input.learned_prior] if input.learned_prior else []
        ),
    message:
        "Searching {wildcards.reaction} with {wildcards.method}"
    shell:
        "saddleflow search --reaction {input.reaction:q} --method {input.method:q} --output {output:q}"
        " --journal {params.journal:q} {params.learned_prior:q} > {log:q} 2>&1"
