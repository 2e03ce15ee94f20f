"""The configuration: pydantic models, unknown keys refused, every value with its meaning, unit and reason.

`configs/default.yaml` and `configs/schema.json` are generated from here (`make config`); a test fails when they drift.
Values that the paper leaves out are marked **[assumed]** in their description; the audit lists them.
"""

from __future__ import annotations

from qwenlong.core.config.corpus import DatasetConfig, FiltersConfig, FolderConfig, LimitsConfig
from qwenlong.core.config.data import (
    BenchmarkTexts,
    CorpusConfig,
    RunConfig,
    SelectionConfig,
    SynthesisConfig,
    TrackingConfig,
)
from qwenlong.core.config.extension import DistractorsConfig, LengthsConfig, ScreenConfig
from qwenlong.core.config.generation import ExtractConfig, MaseConfig
from qwenlong.core.config.models import (
    AgentConfig,
    BaseConfig,
    EndpointConfig,
    EvaluationConfig,
    LLMConfig,
    MergeConfig,
    NanoTrainingConfig,
    ScratchConfig,
)
from qwenlong.core.config.section import Section
from qwenlong.core.config.training import (
    AblationRow,
    AblationsConfig,
    AEPOConfig,
    ClippingConfig,
    EngineConfig,
    MemoryRLConfig,
    StageConfig,
    StageOverrides,
)
from qwenlong.core.config.whole import (
    MODELS,
    PARENTS,
    RL_STAGES,
    SCORED_STAGES,
    Config,
    ResourceConfig,
    ResourcesConfig,
    StageName,
)

__all__ = [
    "AEPOConfig",
    "AblationRow",
    "AblationsConfig",
    "AgentConfig",
    "BaseConfig",
    "BenchmarkTexts",
    "ClippingConfig",
    "Config",
    "CorpusConfig",
    "DatasetConfig",
    "DistractorsConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluationConfig",
    "ExtractConfig",
    "LLMConfig",
    "FiltersConfig",
    "FolderConfig",
    "LengthsConfig",
    "LimitsConfig",
    "MODELS",
    "MaseConfig",
    "MemoryRLConfig",
    "MergeConfig",
    "NanoTrainingConfig",
    "ScratchConfig",
    "PARENTS",
    "RL_STAGES",
    "ResourceConfig",
    "ResourcesConfig",
    "RunConfig",
    "SCORED_STAGES",
    "ScreenConfig",
    "Section",
    "SelectionConfig",
    "StageConfig",
    "StageName",
    "StageOverrides",
    "SynthesisConfig",
    "TrackingConfig",
]
