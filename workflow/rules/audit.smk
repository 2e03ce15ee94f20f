# The report: tables beside the paper's, claims, training curves, provenance. Reads files only.
#
# In:  R/corpus/corpus.json, R/synthesis/funnel.json, R/data_card/card.json, R/{verification,difficulty,bins}/*.json,
#      R/stages/<stage>/{score/score.json,policy/}, R/models/sce_merge/, R/evaluation/**/scores.json,
#      R/ablations/<row>/evaluation/**/scores.json (where ablations.in_report is set)
# Out: R/audit/report.html               for people
#      R/audit/tables.json, table10.md   for machines; for a page of text
#      R/audit/metrics.json, curves.csv  for `dvc metrics` and `dvc plots`


rule audit:
    input:
        corpus=rules.corpus.output.stats,
        funnel=rules.synthesis.output.funnel,
        card=rules.data_card.output.numbers,
        selection=[
            rules.verification.output.summary,
            rules.difficulty.output.summary,
            rules.bins.output.summary,
        ],
        scores=[f"{R}/stages/{stage}/score/score.json" for stage in SCORED_STAGES],
        policies=[f"{R}/stages/{stage}/policy" for stage in RL_STAGES],
        merge=rules.sce_merge.output,
        evaluations=EVALUATIONS,
        ablations=ABLATIONS if RUN.ablations.in_report else [],
    output:
        report=report(f"{R}/audit/report.html", caption="../report/audit.rst", category="Audit"),
        tables=report(f"{R}/audit/tables.json", caption="../report/tables.rst", category="Audit"),
        table10=f"{R}/audit/table10.md",
        metrics=f"{R}/audit/metrics.json",
        curves=f"{R}/audit/curves.csv",
    log:
        f"{R}/logs/audit.log",
    benchmark:
        f"{R}/benchmarks/audit.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("audit", "datacard"),
        config=dump_json(RUN.model_dump(mode="json", exclude={"resources", "tracking"})),
        results=subpath(output.report, ancestor=2),
        folder=subpath(output.report, parent=True),
    shell:
        'qwenlong audit report --results {params.results:q} --config "$QWENLONG_CONFIG" --out {params.folder:q}'
        " > {log:q} 2>&1"
