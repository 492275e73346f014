"""What the searches of the pilot batch teach the others; only with the setting learn_prior."""


rule learn_prior:
    input:
        lambda wildcards: expand(
            f"{RESULTS}/searches/{{reaction}}/{wildcards.method}.h5",
            reaction=plan.pilot_names,
        ),
    output:
        f"{RESULTS}/learned_prior/{{method}}.h5",
    log:
        f"{RESULTS}/logs/learn_prior/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/learn_prior/{{method}}.tsv"
    priority: len(plan.reaction_names) + 1
    threads: 1
    resources:
        mem_mb=4000,
        runtime="2h",
    params:
        prior=lambda wildcards: plan.learning[wildcards.method],
    message:
        "Learning from the first searches with {wildcards.method}"
    shell:
        "saddleflow learn {input:q} --prior {params.prior:q} --output {output:q} > {log:q} 2>&1"
