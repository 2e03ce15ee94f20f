# Which samples each stage trains on: checks and difficulty by the base model, then by the model that enters the stage.
#
# In:  R/synthesis/{samples,documents}.parquet, R/models/<model>/
# Out: R/verification/{samples.parquet,verification.json}    checks filled in; what fails them is dropped and counted
#      R/difficulty/{samples.parquet,difficulty.json}        pass@k of the base model
#      R/bins/{samples.parquet,bins.json}                    balanced over difficulty bins
#      R/stages/rl_<k>/score/{train.parquet,score.json}      for k = 1..4, under that stage's length limits


rule verification:
    input:
        samples=rules.synthesis.output.samples,
        documents=rules.synthesis.output.documents,
        model=rules.base.output,
    output:
        samples=f"{R}/verification/samples.parquet",
        summary=f"{R}/verification/verification.json",
    log:
        f"{R}/logs/verification.log",
    benchmark:
        f"{R}/benchmarks/verification.tsv"
    retries: tries("select")
    threads: cpus("select")
    resources:
        **need("select"),
    params:
        code=code_digest(
            "training.verify", "training.difficulty", "training.prompting", "training.served", "rewards", "inference"
        ),
        config=settings(
            "selection.k",
            "selection.server",
            "selection.drop_blind",
            "selection.blind_tries",
            "selection.blind_alpha",
            "selection.require_robust",
            "selection.robust_documents",
            "selection.max_new_tokens",
            "training.temperature",
            "training.top_p",
            "base.window",
            "engine.dtype",
            "data_seed",
        ),
        served=selector_served,
        folder=subpath(output.samples, parent=True),
    shell:
        '{params.served} qwenlong train verify --config "$QWENLONG_CONFIG" --samples {input.samples:q} --documents {input.documents:q}'
        " --model {input.model:q} --out {params.folder:q} > {log:q} 2>&1"


rule difficulty:
    input:
        samples=rules.verification.output.samples,
        documents=rules.synthesis.output.documents,
        model=rules.base.output,
    output:
        samples=f"{R}/difficulty/samples.parquet",
        summary=f"{R}/difficulty/difficulty.json",
    log:
        f"{R}/logs/difficulty.log",
    benchmark:
        f"{R}/benchmarks/difficulty.tsv"
    retries: tries("select")
    threads: cpus("select")
    resources:
        **need("select"),
    params:
        code=code_digest("training.difficulty", "training.prompting", "training.served", "rewards", "inference"),
        config=settings(
            "selection.k",
            "selection.server",
            "selection.max_new_tokens",
            "training.temperature",
            "training.top_p",
            "base.window",
            "engine.dtype",
            "data_seed",
        ),
        served=selector_served,
        folder=subpath(output.samples, parent=True),
    shell:
        '{params.served} qwenlong train difficulty --config "$QWENLONG_CONFIG" --samples {input.samples:q}'
        " --documents {input.documents:q} --model {input.model:q} --out {params.folder:q} > {log:q} 2>&1"


rule bins:
    input:
        samples=rules.difficulty.output.samples,
    output:
        samples=f"{R}/bins/samples.parquet",
        summary=f"{R}/bins/bins.json",
    log:
        f"{R}/logs/bins.log",
    benchmark:
        f"{R}/benchmarks/bins.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("training.bins"),
        config=settings("selection.bins", "selection.per_bin", "selection.min_per_bin", "data_seed"),
        folder=subpath(output.samples, parent=True),
    shell:
        'qwenlong train bins --config "$QWENLONG_CONFIG" --samples {input.samples:q}'
        " --out {params.folder:q} > {log:q} 2>&1"


for stage in SCORED_STAGES:

    rule:
        name:
            f"score_{stage[-1]}"
        input:
            samples=rules.bins.output.samples,
            documents=rules.synthesis.output.documents,
            model=f"{R}/models/{PARENTS[stage]}",
        output:
            samples=f"{R}/stages/{stage}/score/train.parquet",
            summary=f"{R}/stages/{stage}/score/score.json",
        log:
            f"{R}/logs/score_{stage[-1]}.log",
        benchmark:
            f"{R}/benchmarks/score_{stage[-1]}.tsv"
        retries: tries("select")
        threads: cpus("select")
        resources:
            **need("select"),
        params:
            code=code_digest(
                "training.curriculum",
                "training.difficulty",
                "training.prompting",
                "training.served",
                "rewards",
                "inference",
            ),
            config=settings(
                "selection.k",
                "selection.server",
                "selection.solved_above",
                "selection.carry_share",
                "base.window",
                "engine.dtype",
                "run.seed",
                limits=limits(stage),
                earlier=[RUN.stage(name).max_input_tokens for name in SCORED_STAGES if name < stage],
            ),
            stage=stage,
            served=selector_served,
            folder=subpath(output.samples, parent=True),
        shell:
            '{params.served} qwenlong train select --config "$QWENLONG_CONFIG" --stage {params.stage:q} --samples {input.samples:q}'
            " --documents {input.documents:q} --model {input.model:q} --out {params.folder:q}"
            " > {log:q} 2>&1"
