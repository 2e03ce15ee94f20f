# From verl's shards to models, and the merge (SCE, or the method that `merge` names).
#
# In:  R/stages/<stage>/policy/, R/models/<parent>/
# Out: R/models/<stage>/                 safetensors in run.weights_dtype in a Hugging Face directory
#      R/models/sce_merge/               the merge of rl_3 and memory_rl

for stage in RL_STAGES:

    rule:
        name:
            {"memory_rl": "convert_memory", "naive_grpo": "convert_naive"}.get(stage, f"convert_{stage[-1]}")
        input:
            policy=f"{R}/stages/{stage}/policy",
            like=f"{R}/models/{PARENTS[stage]}",
        output:
            directory(f"{R}/models/{stage}"),
        log:
            f"{R}/logs/convert/{stage}.log",
        benchmark:
            f"{R}/benchmarks/convert/{stage}.tsv"
        retries: tries("merge")
        threads: cpus("merge")
        resources:
            **need("merge"),
        params:
            code=code_digest("checkpoints"),
        shell:
            'qwenlong checkpoint convert {input.policy:q} {output:q} --like {input.like:q} --config "$QWENLONG_CONFIG"'
            f"{written()} > {{log:q}} 2>&1"


rule sce_merge:
    input:
        base=f"{R}/models/{RUN.merge.base}",
        experts=[f"{R}/models/{model}" for model in MERGED_MODELS],
    output:
        directory(f"{R}/models/sce_merge"),
    log:
        f"{R}/logs/sce_merge.log",
    benchmark:
        f"{R}/benchmarks/sce_merge.tsv"
    retries: tries("merge")
    threads: cpus("merge")
    resources:
        **need("merge"),
    params:
        code=code_digest("checkpoints"),
        config=merge_settings(RUN.merge),
        experts=lambda wildcards, input: [word for expert in input.experts for word in ("--expert", expert)],
        state=f"{R}/state/merge",
    shell:
        'qwenlong checkpoint merge --cores {threads} --config "$QWENLONG_CONFIG" --base {input.base:q} {params.experts:q}'
        f" --state {{params.state:q}} --out {{output:q}}{written()} > {{log:q}} 2>&1"
