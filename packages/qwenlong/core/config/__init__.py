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
from qwenlong.core.config.generation import ExtractConfig, GraphConfig, MaseConfig, Nl2SqlConfig, SqlConfig
from qwenlong.core.config.merging import MERGE_SETTINGS, MERGED_MODELS, MergeConfig, MergeRow
from qwenlong.core.config.models import (
    AgentConfig,
    BaseConfig,
    EndpointConfig,
    EvaluationConfig,
    LLMConfig,
    NanoTrainingConfig,
    ScratchConfig,
    WarmupConfig,
)
from qwenlong.core.config.objectives import (
    ClipCovLoss,
    DapoLoss,
    DivergenceConfig,
    GroupTokenLoss,
    GspoLoss,
)
from qwenlong.core.config.parallel import MemoryConfig, RolloutConfig
from qwenlong.core.config.section import Section
from qwenlong.core.config.services import ServiceConfig, SlurmConfig
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
    "ClipCovLoss",
    "ClippingConfig",
    "Config",
    "CorpusConfig",
    "DatasetConfig",
    "DapoLoss",
    "DistractorsConfig",
    "DivergenceConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluationConfig",
    "ExtractConfig",
    "GraphConfig",
    "GroupTokenLoss",
    "GspoLoss",
    "LLMConfig",
    "FiltersConfig",
    "FolderConfig",
    "LengthsConfig",
    "LimitsConfig",
    "MERGED_MODELS",
    "MERGE_SETTINGS",
    "MODELS",
    "MaseConfig",
    "Nl2SqlConfig",
    "SqlConfig",
    "MemoryConfig",
    "MemoryRLConfig",
    "MergeConfig",
    "MergeRow",
    "NanoTrainingConfig",
    "ScratchConfig",
    "PARENTS",
    "RL_STAGES",
    "ResourceConfig",
    "ResourcesConfig",
    "RolloutConfig",
    "RunConfig",
    "SCORED_STAGES",
    "ScreenConfig",
    "Section",
    "ServiceConfig",
    "SlurmConfig",
    "SelectionConfig",
    "StageConfig",
    "StageName",
    "StageOverrides",
    "SynthesisConfig",
    "TrackingConfig",
    "WarmupConfig",
]
