"""Proof of a saddle: a run file in, a verification file out."""


rule verify:
    input:
        run_file=f"{RESULTS}/searches/{{reaction}}/{{method}}.h5",
        settings=f"{RESULTS}/inputs/verification.json",
    output:
        f"{RESULTS}/verifications/{{reaction}}/{{method}}.h5",
    log:
        f"{RESULTS}/logs/verify/{{reaction}}/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/verify/{{reaction}}/{{method}}.tsv"
    priority: lambda wildcards: plan.priorities[wildcards.reaction]
    retries: 2
    threads: plan.threads
    resources:
        mem_mb=lambda wildcards, attempt: (plan.memory_mb + 900) * min(attempt, 2),
        runtime="2h",
    params:
        journal=f"{RESULTS}/journals/{{reaction}}/{{method}}.verification.jsonl",
    message:
        "Verifying the saddle of {wildcards.reaction} by {wildcards.method}"
    shell:
        "saddleflow verify --run-file {input.run_file:q} --settings {input.settings:q} --output {output:q}"
        " --journal {params.journal:q} > {log:q} 2>&1"
