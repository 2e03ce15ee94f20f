# The data card: what the run's data are, in numbers and as pages. Reads what is there after the bins; nothing waits for
# it but the report.
#
# In:  R/corpus/corpus.json, R/synthesis/*.parquet, R/synthesis/funnel.json,
#      R/{verification,difficulty,bins}/{samples.parquet,*.json}
# Out: R/data_card/card.json    numbers, which the report shows
#      R/data_card/card.html    the same as a page of its own
#      R/data_card/card.md      head and text to publish the data set with


rule data_card:
    input:
        corpus=rules.corpus.output.stats,
        synthesis=[
            rules.synthesis.output.samples,
            rules.synthesis.output.memory,
            rules.synthesis.output.heldout,
            rules.synthesis.output.heldout_long,
            rules.synthesis.output.documents,
            rules.synthesis.output.funnel,
        ],
        verification=[rules.verification.output.samples, rules.verification.output.summary],
        difficulty=[rules.difficulty.output.samples, rules.difficulty.output.summary],
        bins=[rules.bins.output.samples, rules.bins.output.summary],
    output:
        numbers=f"{R}/data_card/card.json",
        page=report(f"{R}/data_card/card.html", caption="../report/data_card.rst", category="Data"),
        text=f"{R}/data_card/card.md",
    log:
        f"{R}/logs/data_card.log",
    benchmark:
        f"{R}/benchmarks/data_card.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("datacard", "synthesis.decontaminate", "synthesis.run", "rewards", "corpus.language"),
        config=settings("corpus", "synthesis", "run.name", "data_seed"),
        corpus=subpath(input.corpus, parent=True),
        samples=lambda wildcards, input: os.path.dirname(input.synthesis[0]),
        verification=lambda wildcards, input: os.path.dirname(input.verification[0]),
        difficulty=lambda wildcards, input: os.path.dirname(input.difficulty[0]),
        bins=lambda wildcards, input: os.path.dirname(input.bins[0]),
        folder=subpath(output.numbers, parent=True),
    shell:
        'qwenlong synthesize card {params.samples:q} --config "$QWENLONG_CONFIG" --corpus {params.corpus:q}'
        " --verification {params.verification:q} --difficulty {params.difficulty:q} --bins {params.bins:q}"
        " --out {params.folder:q} > {log:q} 2>&1"
