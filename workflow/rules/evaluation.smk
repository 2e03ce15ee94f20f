# Every model on the held-out samples: the whole prompt at once, and through the memory agent.
#
# In:  R/synthesis/{heldout,heldout_long,documents}.parquet, R/models/<model>/
# Out: R/evaluation/<model>/<benchmark>/{predictions.jsonl,scores.json,run.json}


rule evaluate_full:
    input:
        data=f"{R}/synthesis/{{benchmark}}.parquet",
        documents=rules.synthesis.output.documents,
        model=f"{R}/models/{{model}}",
    output:
        predictions=f"{R}/evaluation/{{model}}/{{benchmark}}/predictions.jsonl",
        scores=f"{R}/evaluation/{{model}}/{{benchmark}}/scores.json",
        run=f"{R}/evaluation/{{model}}/{{benchmark}}/run.json",
    log:
        f"{R}/logs/evaluate/{{model}}-{{benchmark}}.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{{model}}-{{benchmark}}.tsv"
    wildcard_constraints:
        model="|".join(MODELS),
        benchmark="|".join(RUN.evaluation.benchmarks) or "$none",
    threads: cpus("generate")
    resources:
        **need("generate"),
    params:
        code=code_digest("evaluation", "rewards", "inference", "memory_agent"),
        config=settings(*EVALUATION_KEYS),
        mode=[],
        folder=subpath(output.scores, parent=True),
    shell:
        'qwenlong evaluate run {wildcards.benchmark:q} --config "$QWENLONG_CONFIG" --data {input.data:q}'
        " --documents {input.documents:q} --model {input.model:q} --out {params.folder:q} {params.mode:q} > {log:q} 2>&1"


use rule evaluate_full as evaluate_agent with:
    wildcard_constraints:
        model="|".join(AGENT_MODELS),
        benchmark="|".join(RUN.evaluation.agent_benchmarks) or "$none",
    params:
        code=code_digest("evaluation", "rewards", "inference", "memory_agent"),
        config=settings(*EVALUATION_KEYS, "agent"),
        mode=["--agent"],
        folder=subpath(output.scores, parent=True),
