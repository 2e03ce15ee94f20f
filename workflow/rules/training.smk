# Reinforcement learning by verl on Ray, over engine.nodes machines.
#
# In:  R/stages/rl_<k>/score/train.parquet (rl_1..rl_4), R/synthesis/memory.parquet (memory_rl),
#      R/bins/samples.parquet (naive_grpo); R/synthesis/documents.parquet; R/models/<parent>/
# Out: R/stages/<stage>/policy/          verl's shards of the last step, stage.json, metrics
#
# Checkpoints for resuming live in R/state, never in an output: Snakemake deletes the outputs of an unfinished job.

TRAIN_DATA = {stage: f"{R}/stages/{stage}/score/train.parquet" for stage in SCORED_STAGES} | {
    "memory_rl": rules.synthesis.output.memory,
    "naive_grpo": rules.bins.output.samples,
}

for stage in RL_STAGES:

    rule:
        name:
            stage
        input:
            samples=TRAIN_DATA[stage],
            documents=rules.synthesis.output.documents,
            model=f"{R}/models/{PARENTS[stage]}",
            services=ancient(leases(stage, "llm.reward_judge")),
        output:
            directory(f"{R}/stages/{stage}/policy"),
        log:
            f"{R}/logs/{stage}.log",
        benchmark:
            f"{R}/benchmarks/{stage}.tsv"
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
                stage=stage_settings(RUN.stage(stage)),
            ),
            stage=stage,
            served=served("llm.reward_judge"),
        shell:
            '{params.served} qwenlong ray run --config "$QWENLONG_CONFIG" --'
            ' qwenlong train stage {params.stage:q} --config "$QWENLONG_CONFIG" --samples {input.samples:q}'
            " --documents {input.documents:q} --model {input.model:q} --out {output:q} > {log:q} 2>&1"
