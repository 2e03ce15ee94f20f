# Every model on every benchmark: the whole prompt at once, or through the memory agent. Answering and scoring are rules of
# their own, so that scoring again, with another judge or other rules, asks no model.
#
# In:  R/synthesis/{heldout,heldout_long,documents}.parquet, or a benchmark's published files, fetched from the hub or
#      given (evaluation.data); R/models/<model>/
# Out: data/cache/benchmarks/<benchmark>/fetched.json, the published files beside it
#      R/evaluation/<model>/<benchmark>/{predictions.jsonl,run.json}   what was asked and answered
#      R/evaluation/<model>/<benchmark>/scores.json                    from the predictions
#      R/tables/<table>/{<table>.md,<table>.tex,tables.html,tables.csv}


rule fetch_benchmark:
    output:
        f"{PUBLISHED}/{{published}}/fetched.json",
    log:
        f"{R}/logs/fetch/benchmark-{{published}}.log",
    benchmark:
        f"{R}/benchmarks/fetch/benchmark-{{published}}.tsv"
    wildcard_constraints:
        published="|".join(sorted({published_as(name) for name in KNOWN - {*OWN}})),
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        # Files are checked against their digests: code cannot change them, and must not fetch them again.
        code=module_digest("evaluation.sources"),
        source=lambda wildcards: (
            repr(BENCHMARKS[wildcards.published].source) if wildcards.published in BENCHMARKS else ""
        ),
        folder=subpath(output[0], parent=True),
    shell:
        "qwenlong evaluate fetch {wildcards.published:q} --to {params.folder:q} > {log:q} 2>&1"


rule evaluate_full:
    input:
        examples=items_made,
        documents=documents_made,
        model=f"{R}/models/{{model}}",
    output:
        predictions=f"{R}/evaluation/{{model}}/{{benchmark}}/predictions.jsonl",
        run=f"{R}/evaluation/{{model}}/{{benchmark}}/run.json",
    log:
        f"{R}/logs/evaluate/{{model}}-{{benchmark}}.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{{model}}-{{benchmark}}.tsv"
    wildcard_constraints:
        model="|".join(MODELS),
        benchmark="|".join(FULL),
    threads: cpus("generate")
    resources:
        **need("generate"),
    params:
        code=code_digest("evaluation", "inference", "memory_agent", without=AFTER_RESPONSES),
        config=settings(*EVALUATION_KEYS),
        listing=items_digest,
        data=items_file,
        documents=lambda wildcards, input: ["--documents", input.documents] if input.documents else [],
        mode=[],
        folder=subpath(output.predictions, parent=True),
    shell:
        'qwenlong evaluate run {wildcards.benchmark:q} --no-score --allow-failed --config "$QWENLONG_CONFIG" --data {params.data:q}'
        " {params.documents:q} --model {input.model:q} --out {params.folder:q} {params.mode:q} > {log:q} 2>&1"


use rule evaluate_full as evaluate_agent with:
    wildcard_constraints:
        model="|".join(AGENT_MODELS),
        benchmark="|".join(AGENT),
    params:
        code=code_digest("evaluation", "inference", "memory_agent", without=AFTER_RESPONSES),
        config=settings(*EVALUATION_KEYS, "agent"),
        listing=items_digest,
        data=items_file,
        documents=lambda wildcards, input: ["--documents", input.documents] if input.documents else [],
        mode=["--agent"],
        folder=subpath(output.predictions, parent=True),


rule score_evaluation:
    input:
        examples=items_made,
        predictions=f"{R}/evaluation/{{model}}/{{benchmark}}/predictions.jsonl",
    output:
        scores=f"{R}/evaluation/{{model}}/{{benchmark}}/scores.json",
    log:
        f"{R}/logs/evaluate/{{model}}-{{benchmark}}-score.log",
    benchmark:
        f"{R}/benchmarks/evaluate/{{model}}-{{benchmark}}-score.tsv"
    wildcard_constraints:
        model="|".join(MODELS),
        benchmark="|".join([*FULL, *AGENT]),
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("evaluation", "rewards", without=AFTER_SCORES),
        config=settings("llm.evaluation_judge", "run.seed"),
        listing=items_digest,
        examples=items_file,
    shell:
        "qwenlong evaluate score {wildcards.benchmark:q} --examples {params.examples:q}"
        ' --predictions {input.predictions:q} --config "$QWENLONG_CONFIG" --out {output.scores:q} > {log:q} 2>&1'


rule paper_table:
    input:
        scores=lambda wildcards: TABLES[wildcards.table],
    output:
        markdown=f"{R}/tables/{{table}}/{{table}}.md",
        latex=f"{R}/tables/{{table}}/{{table}}.tex",
        page=f"{R}/tables/{{table}}/tables.html",
        values=f"{R}/tables/{{table}}/tables.csv",
    log:
        f"{R}/logs/tables/{{table}}.log",
    benchmark:
        f"{R}/benchmarks/tables/{{table}}.tsv"
    wildcard_constraints:
        table="|".join(layout.TABLES),
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("evaluation.tables", "evaluation.compare"),
        results=subpath(output.markdown, ancestor=3),
        folder=subpath(output.markdown, parent=True),
    shell:
        'qwenlong evaluate tables --results {params.results:q} --table {wildcards.table:q} --config "$QWENLONG_CONFIG"'
        " --out {params.folder:q} > {log:q} 2>&1"
