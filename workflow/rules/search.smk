"""One search: a reaction and a method in, a run file out."""


rule search:
    input:
        reaction=f"{RESULTS}/inputs/reactions/{{reaction}}.json",
        method=f"{RESULTS}/inputs/methods/{{method}}.json",
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
    message:
        "Searching {wildcards.reaction} with {wildcards.method}"
    shell:
        "saddleflow search --reaction {input.reaction:q} --method {input.method:q} --output {output:q}"
        " --journal {params.journal:q} > {log:q} 2>&1"
