"""Hugging Face checkpoint directories: tensors are read one at a time, files written without holding them whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import dump_json, read_json

INDEX = "model.safetensors.index.json"
#: Largest weight file, in bytes, as Hugging Face's own writers split.
MAX_FILE_BYTES = 4 * 10**9

#: safetensors' names of the dtypes that weights come in.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
#: Names a user may write for the floating dtypes of weights.
FLOATS = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}

#: What belongs to a model beside its weights. A list of names, so that reports and optimizer states stay behind.
_CARRIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "additional_chat_templates/*",
    "*processor_config.json",
    "*.py",
    "LICENSE*",
)


def float_dtype(name: str) -> torch.dtype:
    """Return the dtype of a name such as "bf16". Raises UsageError for another one."""
    if name not in FLOATS:
        raise UsageError(f"--dtype {name}: choose one of {', '.join(FLOATS)}")
    return FLOATS[name]


def shard_bytes(text: str) -> int:
    """Return the bytes of a size such as "500MB" or "4GB" (powers of 1,000). Raises UsageError for another text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise UsageError(f"--max-shard-size {text}: give a number and a unit, such as 500MB or 4GB")
    return size


def read_directory(path: Path, option: str) -> Path:
    """Return `path` if it is a directory. Raises UsageError naming the option otherwise."""
    if not path.is_dir():
        raise UsageError(f"{option} {path} is not a directory; check the path, or run the stage that writes it")
    return path


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Entry:
    """A tensor to write: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * self.dtype.itemsize

    def typed(self, dtype: torch.dtype | None) -> Entry:
        """Return the entry with another dtype; None, and tensors that are not floating, keep their own."""
        return self if dtype is None or not self.dtype.is_floating_point else replace(self, dtype=dtype)


class Weights:
    """The tensors of a directory, by name; a context manager that keeps its files open.

    Files are memory-mapped: reading a tensor costs its own size and nothing else.
    """

    def __init__(self, directory: Path) -> None:
        """Open the safetensors files of a directory, by its index where it has one.

        Raises DataError when there are none, when one cannot be read, and when index and files disagree.
        """
        self.directory = Path(directory)
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        try:
            for file in self._file_names():
                self._open(file)
        except BaseException:
            self._stack.close()
            raise

    def _file_names(self) -> list[str]:
        if not self.directory.is_dir():
            raise DataError(f"{self.directory} is not a directory; give a Hugging Face checkpoint directory")
        index = self.directory / INDEX
        if not index.exists():
            names = sorted(path.name for path in self.directory.glob("*.safetensors"))
            if not names:
                raise DataError(f"{self.directory} has no *.safetensors file; convert the checkpoint first")
            return names
        content = read_json(index)
        mapped = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(mapped, dict) or not mapped:
            raise DataError(f"{index} has no weight_map; make the checkpoint anew")
        for name, file in mapped.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise DataError(f"{index}: {name} lies in {file!r}, which is not a plain file name")
        self._mapped: dict[str, str] | None = mapped
        files = sorted(set(mapped.values()))
        for file in files:
            if not (self.directory / file).is_file():
                raise DataError(
                    f"{self.directory / file} is missing, though {INDEX} names it; copy or make the checkpoint anew"
                )
        return files

    _mapped: dict[str, str] | None = None

    def _open(self, file: str) -> None:
        path = self.directory / file
        try:
            handle = self._stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}); copy or make the checkpoint anew") from error
        found = set(handle.keys())
        if self._mapped is not None:
            wanted = {name for name, where in self._mapped.items() if where == file}
            if found != wanted:
                name = sorted(found ^ wanted)[0]
                raise DataError(f"{path} and {INDEX} disagree about {name}; copy or make the checkpoint anew")
        for name in sorted(found):
            if name in self.entries:
                raise DataError(f"{name} is in two files of {self.directory}; remove the stale one")
            part = handle.get_slice(name)
            code = part.get_dtype()
            if code not in DTYPES:
                raise DataError(f"{path}: {name} has dtype {code}, which is not known here; convert it to BF16 or F32")
            self.entries[name] = Entry(name, tuple(part.get_shape()), DTYPES[code])
            self._files[name] = handle

    def tensor(self, name: str) -> Tensor:
        """Return a tensor."""
        return self._files[name].get_tensor(name)  # type: ignore[no-any-return]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a tensor, reading no more than that; a scalar whole."""
        if not self.entries[name].shape:
            return self.tensor(name)
        return self._files[name].get_slice(name)[start:stop]  # type: ignore[no-any-return]

    def matrix(self, name: str, number: int) -> Tensor:
        """Return `tensor(name)[number]`, reading no more than that."""
        return self._files[name].get_slice(name)[number]  # type: ignore[no-any-return]

    @property
    def n_parameters(self) -> int:
        """Number of elements over all tensors."""
        return sum(entry.elements for entry in self.entries.values())

    def config(self) -> dict[str, Any]:
        """Return config.json. Raises DataError when it is missing or no object."""
        value = read_json(self.directory / "config.json")
        if not isinstance(value, dict):
            raise DataError(f"{self.directory / 'config.json'} holds no object; copy it from the base model")
        return value

    def __enter__(self) -> Weights:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._stack.close()


def compare_names(wanted: dict[str, Entry], found: dict[str, Entry], where: str, like: str) -> list[str]:
    """Return one fault per missing, unexpected or misshapen tensor of `found`, the tensors of `where`."""
    faults = [f"{where} lacks {name}, which {like} has" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"{where} has {name}, which {like} has not" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        shapes = wanted[name].shape, found[name].shape
        if shapes[0] == shapes[1]:
            continue
        vocabulary = name.endswith(("embed_tokens.weight", "lm_head.weight")) and shapes[0][1:] == shapes[1][1:]
        what = "vocabulary mismatch: " if vocabulary else ""
        faults.append(f"{what}{name} has shape {list(shapes[1])} in {where}, {list(shapes[0])} in {like}")
    return faults


def refuse(faults: Sequence[str], remedy: str) -> None:
    """Raise DataError with the first faults and the remedy, if there are faults."""
    if faults:
        rest = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(f"{'; '.join(faults[:5])}{rest}; {remedy}")


def plan_files(entries: Sequence[Entry], max_bytes: int = MAX_FILE_BYTES) -> dict[str, list[Entry]]:
    """Split entries, in their order, into files of at most `max_bytes` (a larger tensor gets its own); name them."""
    groups: list[list[Entry]] = []
    size = 0
    for entry in entries:
        if not groups or size + entry.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    total = len(groups)
    return {f"model-{number:05d}-of-{total:05d}.safetensors": group for number, group in enumerate(groups, 1)}


def in_file_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries as they lie in a file: safetensors wants each aligned to its element, so the wide ones first."""
    return sorted(entries, key=lambda entry: -entry.dtype.itemsize)


def header(entries: Sequence[Entry]) -> tuple[bytes, dict[str, int], int]:
    """Return what a safetensors file begins with, the byte at which each tensor begins, and the file's size."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places = {}
    position = 0
    for entry in in_file_order(entries):
        content[entry.name] = {
            "dtype": _CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.nbytes],
        }
        places[entry.name] = position
        position += entry.nbytes
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    return (
        len(text).to_bytes(8, "little") + text,
        {name: begin + place for name, place in places.items()},
        begin + position,
    )


def write_file(path: Path, entries: Sequence[Entry], produce: Callable[[Entry], Tensor | Iterator[Tensor]]) -> str:
    """Write a safetensors file tensor by tensor and return its SHA-256. The bytes depend on the tensors alone.

    `produce` gives the tensor of an entry, once each and in order, or the pieces that make it up in row-major order,
    so that no tensor need be held whole. The caller provides for atomicity.
    """
    digest = hashlib.sha256()
    with path.open("wb") as stream:

        def put(data: Any) -> None:
            digest.update(data)
            stream.write(data)

        put(header(entries)[0])
        for entry in in_file_order(entries):
            made = produce(entry)
            written = 0
            for piece in (made,) if isinstance(made, Tensor) else made:
                whole = not isinstance(made, Tensor) or tuple(piece.shape) == entry.shape
                if not whole or piece.dtype != entry.dtype:
                    raise AssertionError(f"{entry} was planned, {tuple(piece.shape)} {piece.dtype} was produced")
                written += piece.numel()
                if piece.numel():
                    put(memoryview(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
            if written != entry.elements:
                raise AssertionError(f"{entry} was planned, {written} elements were produced")
    return digest.hexdigest()


def index_of(files: dict[str, list[Entry]]) -> dict[str, Any] | None:
    """Return the content of the index file, or None for a single file, which has none."""
    if len(files) == 1:
        return None
    return {
        "metadata": {"total_size": sum(entry.nbytes for group in files.values() for entry in group)},
        "weight_map": {entry.name: file for file, group in files.items() for entry in group},
    }


def carry(sources: Sequence[Path], target: Path, dtype: torch.dtype | None) -> None:
    """Copy config, generation config, tokenizer, chat template and the like; the first source that has a file wins.

    config.json is set to say `dtype`; None leaves it as it is.
    """
    for source in sources:
        for file in carried_files(source):
            place = target / file.relative_to(source)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
    config_file = target / "config.json"
    if not config_file.exists():
        raise DataError(f"no config.json in {' or '.join(map(str, sources))}; give the base model's directory")
    if dtype is None:
        return
    config = read_json(config_file)
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    if config.get(key) != dtype_name(dtype):
        config[key] = dtype_name(dtype)
        config_file.write_text(dump_json(config), encoding="utf-8")


def carried_files(source: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint directory that are not weights and belong to the model."""
    for pattern in _CARRIED:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not file.name.startswith(".") and not file.name.endswith("provenance.json"):
                yield file


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file by a hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
