"""Sections of the corpus: folders, data sets, bounds against hostile input, filters (SPEC section 2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwenlong.core.config.section import Section

#: First part of the ids of a source's documents, as in data/sources.csv.
SourceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
DocumentCategory = Literal["code", "academic", "professional", "general", "dialogue"]
Language = Literal["ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh"]
Share = Annotated[float, Field(ge=0, le=1)]


class FolderConfig(Section):
    """A local folder of text, Markdown, HTML, PDF, JSON, JSON lines, CSV or source code."""

    name: SourceName
    """Name of the source: lower-case letters, digits and '_'."""
    path: Annotated[str, Field(min_length=1)]
    """The folder, relative to the project or absolute. It is read with all folders below; links are not followed."""
    category: DocumentCategory
    """Category of its documents."""
    licence: Annotated[str, Field(min_length=1)]
    """Licence of the collection; write "unstated" where there is none."""
    data_licence: Annotated[str, Field(min_length=1)] | None = None
    """Licence of the texts, which every document carries; none: as `licence`."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """JSON key or CSV column that holds a record's text; records without it are shown whole."""
    title_field: Annotated[str, Field(min_length=1)] = "title"
    """JSON key or CSV column that holds a record's title."""
    rows_per_document: Annotated[int, Field(ge=1)] = 200
    """Rows of a CSV table (one without text_field) that one document holds; each repeats the head."""


class DatasetConfig(Section):
    """A data set of texts: an id on the Hugging Face hub, or a Parquet or JSON-lines file, or a folder of these."""

    name: SourceName
    """Name of the source: lower-case letters, digits and '_'."""
    path: Annotated[str, Field(min_length=1)]
    """A path that exists, or else a hub id ("owner/name")."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of the hub's repository, 40 hex digits. Hub ids need one: branches and tags move."""
    subset: Annotated[str, Field(min_length=1)] | None = None
    """Name of the hub data set's configuration, where it has several."""
    split: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """Split. Hub ids need one; of a local folder it takes the files named after the split (`train-…`, `train/…`);
    none: all of them. A single file has no splits."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """Column of the text; a column of chats ([{role, content}, …]) becomes "role: content" lines."""
    title_field: Annotated[str, Field(min_length=1)] | None = None
    """Column of the title; none: the name and the number of the record."""
    category: DocumentCategory
    """Category of its documents."""
    licence: Annotated[str, Field(min_length=1)]
    """Licence of the texts, which every document carries; write "unstated" where there is none."""


class LimitsConfig(Section):
    """Bounds against hostile or broken input. What exceeds one is refused with a message, never cut. [assumed]"""

    max_file_bytes: Annotated[int, Field(ge=1)] = 64 * 2**20
    """Largest file that is read whole: text, HTML, PDF, JSON, code. JSON lines and CSV stream, without this bound."""
    max_record_bytes: Annotated[int, Field(ge=1)] = 16 * 2**20
    """Longest line of a JSON-lines or CSV file, in bytes."""
    max_cell_characters: Annotated[int, Field(ge=1)] = 131_072
    """Longest cell of a CSV table; the text column of records is bounded by max_record_bytes alone."""
    max_line_characters: Annotated[int, Field(ge=1)] = 1_000_000
    """Longest line of a document's text: what has no line ends is data, not text."""
    max_document_characters: Annotated[int, Field(ge=1)] = 20_000_000
    """Longest document."""
    max_json_depth: Annotated[int, Field(ge=1, le=500)] = 64
    """Deepest nesting of JSON."""
    max_pdf_pages: Annotated[int, Field(ge=1)] = 5_000
    """Most pages of a PDF."""
    max_archive_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Most bytes that an archive may unpack to, all members together. A tar or zip is refused before it is unpacked
    further than this."""
    max_archive_members: Annotated[int, Field(ge=1)] = 200_000
    """Most members of an archive."""
    max_archive_ratio: Annotated[float, Field(ge=1)] = 200
    """Largest ratio of unpacked to packed bytes of an archive, or of a member above 1 MiB. Text packs about 3 to 20
    times, DEFLATE at most 1032 times."""
    control_tokens: Literal["neutralise", "drop", "keep"] = "neutralise"
    """Chat-template tokens and the tags of our own prompts in a text (`<|im_start|>`, `<think>`, `</memory>`):
    neutralise writes them with a blank, so that no tokenizer or parser takes them for its own; drop refuses the
    document."""


class FiltersConfig(Section):
    """Quality rules beyond those of `corpus` itself; none switches one off. Prose rules leave code and tables alone.

    They are off by default, so that a corpus stays what it was. Thresholds in the descriptions are published ones:
    Gopher is Rae et al. 2021 (arXiv 2112.11446, table A1), C4 is Raffel et al. 2020 (arXiv 1910.10683, section 2.2),
    StarCoder is Li et al. 2023 (arXiv 2305.06161, section 3).
    """

    min_words: Annotated[int, Field(ge=1)] | None = None
    """Fewest words. Gopher: 50."""
    max_words: Annotated[int, Field(ge=1)] | None = None
    """Most words. Gopher: 100,000; long-context data may want no bound."""
    min_mean_word_length: Annotated[float, Field(gt=0)] | None = None
    """Smallest mean length of words in characters. Gopher: 3. For languages that put blanks between words."""
    max_mean_word_length: Annotated[float, Field(gt=0)] | None = None
    """Largest mean length of words in characters. Gopher: 10."""
    min_alphabetic_share: Share | None = None
    """Smallest share of words that hold a letter. Gopher: 0.8."""
    max_bullet_share: Share | None = None
    """Largest share of lines that begin with a bullet. Gopher: 0.9."""
    max_ellipsis_share: Share | None = None
    """Largest share of lines that end with an ellipsis. Gopher: 0.3."""
    max_repeated_line_share: Share | None = None
    """Largest share of lines that repeat an earlier line, whatever their length. Gopher: 0.3."""
    max_top_bigram_share: Share | None = None
    """Largest share of the words' characters in the most frequent pair of words. Gopher: 0.2."""
    max_repeated_ngram_share: Share | None = None
    """Largest share of the words' characters inside 10-word sequences that stand there more than once. Gopher: 0.1."""
    max_boilerplate_share: Share | None = None
    """Largest share of characters in lines of notices: cookies, privacy, terms of use, rights reserved, log in,
    share. C4 drops such lines and pages; here a page that is mostly notices goes, whole. About 0.3."""
    languages: tuple[Language, ...] = ()
    """Languages to keep, by a profile of function words and scripts; empty: any. A text in which no language shows
    (tables, names, code) stays."""
    vendored: bool = True
    """Drop files of folders that hold other projects' code (vendor, third_party, node_modules, …). Folders only:
    loaders of packages have rules of their own."""
    lock_files: bool = True
    """Drop lock files of package managers."""
    max_code_line: Annotated[int, Field(ge=1)] | None = None
    """Longest line of code, in characters: minified code and data have longer ones. StarCoder: 1,000."""
    max_mean_code_line: Annotated[float, Field(gt=0)] | None = None
    """Largest mean length of the lines of code, in characters. StarCoder: 100."""

    @model_validator(mode="after")
    def _ordered(self) -> FiltersConfig:
        for low, high in (("min_words", "max_words"), ("min_mean_word_length", "max_mean_word_length")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} = {least} is above {high} = {most}; nothing would pass. Swap them")
        return self
