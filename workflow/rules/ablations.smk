# Rows of Tables 2, 4 and 5: each trained alone from the base model, converted, evaluated. Rows of Table 10's merge:
# the models that the recipe merges under other settings, evaluated as its own merge is.
#
# In:  R/bins/samples.parquet, R/models/base/; for merges R/models/{rl_3,memory_rl}/; what the benchmarks of evaluation.smk
#      read
# Out: R/ablations/<row>/policy/         verl's shards of the last step, stage.json, metrics; not of merges
#      R/ablations/<row>/model/          the converted or merged model
#      R/ablations/<row>/evaluation/<benchmark>/{predictions.jsonl,scores.json,run.json}

for row in ROWS:

    rule:
        name:
            f"ablation_{row}"
        input:
            samples=rules.bins.output.samples,
            documents=rules.synthesis.output.documents,
            model=rules.base.output,
            services=ancient(leases(f"ablation_{row}", "llm.reward_judge")),
        output:
            directory(f"{R}/ablations/{row}/policy"),
        log:
            f"{R}/logs/ablations/{row}-train.log",
        benchmark:
            f"{R}/benchmarks/ablations/{row}-train.tsv"
        retries: tries("train")
        threads: cpus("train")
        resources:
            **need("train"),
        params:
            code=code_digest("training", "rewards", "memory_agent", "inference"),
            config=settings(
                "run.seed",
                "llm.reward_judge",
                engine=engine_settings(),
                stage=stage_settings(RUN.ablation(row)),
            ),
            row=row,
            served=served("llm.reward_judge"),
        shell:
            '{params.served} qwenlong ray run --config "$QWENLONG_CONFIG" --'
            ' qwenlong train stage {params.row:q} --ablation --config "$QWENLONG_CONFIG" --samples {input.samples:q}'
            " --documents {input.documents:q} --model {input.model:q} --out {output:q} > {log:q} 2>&1"


rule convert_ablation:
    input:
        policy=f"{R}/ablations/{{row}}/policy",
        like=rules.base.output,
    output:
        directory(f"{R}/ablations/{{row}}/model"),
    log:
        f"{R}/logs/ablations/{{row}}-convert.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-convert.tsv"
    wildcard_constraints:
        row="|".join(ROWS) or "$none",
    retries: tries("merge")
    threads: cpus("merge")
    resources:
        **need("merge"),
    params:
        code=code_digest("checkpoints"),
        stage=lambda wildcards: f"convert_ablation_{wildcards.row}",
    shell:
        'qwenlong checkpoint convert {input.policy:q} {output:q} --like {input.like:q} --config "$QWENLONG_CONFIG"'
        f" --stage {{params.stage:q}}{written()} > {{log:q}} 2>&1"


rule merge_ablation:
    input:
        base=lambda wildcards: f"{R}/models/{MERGES[wildcards.row].base}",
        experts=[f"{R}/models/{model}" for model in MERGED_MODELS],
    output:
        directory(f"{R}/ablations/{{row}}/model"),
    log:
        f"{R}/logs/ablations/{{row}}-merge.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-merge.tsv"
    wildcard_constraints:
        row="|".join(MERGES) or "$none",
    retries: tries("merge")
    threads: cpus("merge")
    resources:
        **need("merge"),
    params:
        code=code_digest("checkpoints"),
        config=lambda wildcards: merge_settings(MERGES[wildcards.row]),
        experts=lambda wildcards, input: [word for expert in input.experts for word in ("--expert", expert)],
        stage=lambda wildcards: f"merge_ablation_{wildcards.row}",
        state=lambda wildcards: f"{R}/state/merges/{wildcards.row}",
    shell:
        'qwenlong checkpoint merge --cores {threads} --config "$QWENLONG_CONFIG" --ablation {wildcards.row:q}'
        " --base {input.base:q} {params.experts:q} --stage {params.stage:q} --state {params.state:q} --out {output:q}"
        f"{written()} > {{log:q}} 2>&1"


use rule evaluate_full as evaluate_ablation with:
    input:
        examples=items_made,
        documents=documents_made,
        model=f"{R}/ablations/{{row}}/model",
    output:
        predictions=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/predictions.jsonl",
        run=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/run.json",
    log:
        f"{R}/logs/ablations/{{row}}-{{benchmark}}.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-{{benchmark}}.tsv"
    wildcard_constraints:
        row="|".join([*ROWS, *MERGES]) or "$none",
        benchmark="|".join(FULL),


use rule evaluate_agent as evaluate_ablation_agent with:
    input:
        examples=items_made,
        documents=documents_made,
        model=f"{R}/ablations/{{row}}/model",
    output:
        predictions=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/predictions.jsonl",
        run=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/run.json",
    log:
        f"{R}/logs/ablations/{{row}}-{{benchmark}}.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-{{benchmark}}.tsv"
    wildcard_constraints:
        row="|".join(MERGES) or "$none",
        benchmark="|".join(AGENT),


use rule score_evaluation as score_ablation with:
    input:
        examples=items_made,
        predictions=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/predictions.jsonl",
    output:
        scores=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/scores.json",
    log:
        f"{R}/logs/ablations/{{row}}-{{benchmark}}-score.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-{{benchmark}}-score.tsv"
    wildcard_constraints:
        row="|".join([*ROWS, *MERGES]) or "$none",
        benchmark="|".join([*FULL, *AGENT]),
