# The base model: made and warmed up on training samples (nano-scratch), or taken (nano, smollm2, hf), and warmed up where
# base.warmup says so.
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
            "training.base_warmup",
            "training.copying",
            "training.prompting",
            "training.supervised",
            "training.tokenizer",
            "training.warmup",
            "synthesis.warmup",
            "inference",
        ),
        config=settings(
            "base",
            "selection.max_new_tokens",
            "data_seed",
            memory=RUN.stage("memory_rl").memory.model_dump(mode="json"),
            sampling=RUN.training.model_dump(
                mode="json", include={"temperature", "top_p"} if RUN.base.warmup else set()
            ),
            **written_settings(),
        ),
    shell:
        'qwenlong train base --config "$QWENLONG_CONFIG" --samples {input.samples:q} --documents {input.documents:q}'
        " --tokenizer {input.tokenizer:q} --out {output:q} > {log:q} 2>&1"
