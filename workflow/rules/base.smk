# The base model: made and warmed up on training samples (nano), or taken from elsewhere (smollm2, hf).
#
# In:  R/synthesis/{samples,documents}.parquet, R/tokenizer/
# Out: R/models/base/                    a Hugging Face directory


rule base:
    input:
        samples=rules.synthesis.output.samples,
        documents=rules.synthesis.output.documents,
        tokenizer=rules.tokenizer.output,
        weights=BASE_FILES,
    output:
        directory(f"{R}/models/base"),
    log:
        f"{R}/logs/base.log",
    benchmark:
        f"{R}/benchmarks/base.tsv"
    retries: tries("generate")
    threads: cpus("train")
    resources:
        **need("generate"),
    params:
        code=code_digest(
            "training.base",
            "training.copying",
            "training.prompting",
            "training.tokenizer",
            "training.warmup",
            "synthesis.warmup",
            "inference",
        ),
        config=settings(
            "base",
            "selection.max_new_tokens",
            "run.seed",
            memory=RUN.stage("memory_rl").memory.model_dump(mode="json"),
        ),
    shell:
        'qwenlong train base --config "$QWENLONG_CONFIG" --samples {input.samples:q} --documents {input.documents:q}'
        " --tokenizer {input.tokenizer:q} --out {output:q} > {log:q} 2>&1"
