# Rows of Tables 2, 4 and 5: each trained alone from the base model, converted, evaluated.
#
# In:  R/bins/samples.parquet, R/synthesis/{heldout,documents}.parquet, R/models/base/
# Out: R/ablations/<row>/policy/         verl's shards of the last step, stage.json, metrics
#      R/ablations/<row>/model/          the converted model
#      R/ablations/<row>/evaluation/<benchmark>/{predictions.jsonl,scores.json,run.json}

for row in ROWS:

    rule:
        name:
            f"ablation_{row}"
        input:
            samples=rules.bins.output.samples,
            documents=rules.synthesis.output.documents,
            model=rules.base.output,
        output:
            directory(f"{R}/ablations/{row}/policy"),
        log:
            f"{R}/logs/ablations/{row}-train.log",
        benchmark:
            f"{R}/benchmarks/ablations/{row}-train.tsv"
        threads: cpus("train")
        resources:
            **need("train"),
        params:
            code=code_digest("training", "rewards", "memory_agent", "inference"),
            config=settings(
                "engine",
                "run.seed",
                "llm.reward_judge",
                stage=stage_settings(RUN.ablation(row)),
            ),
            row=row,
        shell:
            'qwenlong train stage {params.row:q} --ablation --config "$QWENLONG_CONFIG" --samples {input.samples:q}'
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
    threads: cpus("merge")
    resources:
        **need("merge"),
    params:
        code=code_digest("checkpoints"),
        stage=lambda wildcards: f"convert_ablation_{wildcards.row}",
    shell:
        'qwenlong checkpoint convert {input.policy:q} {output:q} --like {input.like:q} --config "$QWENLONG_CONFIG"'
        " --stage {params.stage:q} > {log:q} 2>&1"


use rule evaluate_full as evaluate_ablation with:
    input:
        data=f"{R}/synthesis/{{benchmark}}.parquet",
        documents=rules.synthesis.output.documents,
        model=f"{R}/ablations/{{row}}/model",
    output:
        predictions=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/predictions.jsonl",
        scores=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/scores.json",
        run=f"{R}/ablations/{{row}}/evaluation/{{benchmark}}/run.json",
    log:
        f"{R}/logs/ablations/{{row}}-{{benchmark}}.log",
    benchmark:
        f"{R}/benchmarks/ablations/{{row}}-{{benchmark}}.tsv"
    wildcard_constraints:
        row="|".join(ROWS) or "$none",
        benchmark="|".join(RUN.evaluation.benchmarks) or "$none",
