"""The paper's result tables from score files: our numbers beside the published ones."""
