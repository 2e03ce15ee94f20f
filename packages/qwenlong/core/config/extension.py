"""Sections about the length of samples, what stands around their evidence, and screening (SPEC section 2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwenlong.core.config.models import EndpointConfig
from qwenlong.core.config.section import Section


class LengthsConfig(Section):
    """Distribution of prompt lengths: a histogram over bins of one width, from 0 up."""

    histogram: Literal["figure3"] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = "figure3"
    """Samples per bin, as shares of their sum; figure3: the paper's, read off its Figure 3."""
    bin_tokens: Annotated[int, Field(ge=1)] = 6000
    """Width of a bin in tokens; Figure 3's is 6000."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the width: the same shape for another longest prompt (figure3 ends at 120000 times scale)."""

    @model_validator(mode="after")
    def _some_room(self) -> LengthsConfig:
        if isinstance(self.histogram, tuple) and not sum(self.histogram):
            raise ValueError("histogram has no sample in any bin; give one bin a count above 0")
        if round(self.bin_tokens * self.scale) < 32:
            raise ValueError(f"bins of {self.bin_tokens} x {self.scale:g} tokens hold no prompt; they need 32 tokens")
        return self


class DistractorsConfig(Section):
    """Which irrelevant documents stand around the evidence."""

    clusters: Annotated[int, Field(ge=2)] | None = None
    """Groups of documents by meaning (k-means over embeddings), per side of the split; distractors are from groups
    other than the evidence's. none: from all documents alike."""
    near_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of distractors drawn from the evidence's own groups: hard ones."""


class ScreenConfig(Section):
    """Knowledge grounding and contextual robustness without a local model: by rules, and by an endpoint."""

    rules: bool = False
    """Whether `synthesize run` drops what can be answered without reading: the answer stands in the question or
    follows from its numbers, or always giving a template's commonest answer, one place or the longest or shortest
    option would be right too often (max_guess_share)."""
    max_guess_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest share of a template's samples that one rule of guessing may get right. [assumed]"""
    endpoint: EndpointConfig | None = None
    """Model that `synthesize screen` asks; none: llm.generator."""
    blind_tries: Annotated[int, Field(ge=1)] = 8
    """Tries without documents. [assumed]"""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """A sample counts as answered blind when guessing alone would do as well with at most this probability; also the
    share of clean samples that guessing costs, at most. [assumed]"""
    k: Annotated[int, Field(ge=1)] = 4
    """Tries with more documents, and with the sample's own under measure_difficulty. [assumed]"""
    robust_documents: Annotated[int, Field(ge=1)] = 2
    """Irrelevant documents added for the robustness check. [assumed]"""
    require_robust: bool = True
    """Drop samples that none of k tries solves once documents are added."""
    measure_difficulty: bool = False
    """Also ask k times with the sample's own documents: pass@k, which `train bins` balances by."""
    max_input_tokens: Annotated[int, Field(ge=32)] = 120000
    """Longest prompt in tokens that the endpoint takes; a sample without room for one more document is not measured."""
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Output limit; a reply that reaches it has no answer."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling."""
