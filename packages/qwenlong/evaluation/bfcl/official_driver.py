"""Runs the official harness (package bfcl-eval) on one memory category; asks its parent for every model turn.

A file of its own environment (scripts/bfcl_env.sh), which has no qwenlong: `official.py` starts it. JSON lines go both
ways. First in: {"category", "ids", "threads"}. Out: {"ask": number, "id", "step", "messages"}, {"end": id, "error"}.
In: {"ask": number, "text", "read", "written"} or {"ask": number, "error"}. It ends when its parent does.

The harness evaluates what a model writes as Python. Here only calls of the memory's own functions with literal
arguments reach it; anything else becomes the call of a function that does not exist, whose error the model is shown.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import queue
import sys
import threading
import types
from typing import Any

#: A function that no memory has.
UNKNOWN = "no_such_function()"


class Link:
    """The parent, at the other end of two pipes."""

    def __init__(self) -> None:
        # What the harness prints must not get between the lines: it goes where errors go.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._guard = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.job: dict[str, Any] = json.loads(sys.stdin.readline())
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, value: dict[str, Any]) -> None:
        """Write a line."""
        with self._guard:
            self._out.write(json.dumps(value) + "\n")
            self._out.flush()

    def ask(self, entry: str, step: int, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the parent's reply. Raises RuntimeError with what it says went wrong."""
        answer: queue.Queue[dict[str, Any]] = queue.Queue(1)
        number = next(self._numbers)
        self._waiting[number] = answer
        self.send({"ask": number, "id": entry, "step": step, "messages": messages})
        reply = answer.get()
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def _listen(self) -> None:
        for line in sys.stdin:
            reply = json.loads(line)
            self._waiting.pop(reply["ask"]).put(reply)
        os._exit(3)


def harmless(calls: list[str], known: frozenset[str]) -> list[str]:
    """Return the calls, those replaced that are not of a known function with literal arguments by name."""
    kept = []
    for call in calls:
        try:
            node = ast.parse(call, mode="eval").body
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in known:
                raise ValueError
            if node.args or any(keyword.arg is None for keyword in node.keywords):
                raise ValueError
            for keyword in node.keywords:
                ast.literal_eval(keyword.value)
            kept.append(call)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            kept.append(UNKNOWN)
    return kept


def computes(message: str) -> bool:
    """Tell whether the message holds what the harness would evaluate while it reads the calls. Raises as ast does."""
    text = message.strip("`\n ")
    listed = f"{'' if text.startswith('[') else '['}{text}{'' if text.endswith(']') else ']'}"
    tree = ast.parse(listed.strip().strip("'"), mode="eval")
    return any(isinstance(node, ast.BinOp | ast.Lambda) for node in ast.walk(tree))


def handler(link: Link, known: frozenset[str]) -> type:
    """Return the harness's handler of prompted chat models, asking `link` instead of a vendor's address."""
    from bfcl_eval.constants.enums import ModelStyle
    from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler
    from bfcl_eval.model_handler.base_handler import BaseHandler

    local = threading.local()

    class Bridged(OpenAICompletionsHandler):  # type: ignore[misc]
        def __init__(self, model_name: str, temperature: float, registry_name: str, is_fc_model: bool) -> None:
            # Not the parent's: it makes a client, which wants a key.
            BaseHandler.__init__(self, model_name, temperature, registry_name, is_fc_model)
            self.model_style = ModelStyle.OPENAI_COMPLETIONS

        def inference(self, test_entry: dict[str, Any], *settings: Any) -> Any:
            local.entry, local.step = test_entry["id"], 0
            try:
                found = super().inference(test_entry, *settings)
            except Exception as error:
                link.send({"end": local.entry, "error": f"{type(error).__name__}: {error}"})
                raise
            link.send({"end": local.entry, "error": None})
            return found

        def _query_prompting(self, inference_data: dict[str, Any]) -> tuple[dict[str, Any], float]:
            reply = link.ask(local.entry, local.step, inference_data["message"])
            local.step += 1
            return reply, 0.0

        def _parse_query_response_prompting(self, api_response: dict[str, Any]) -> dict[str, Any]:
            return {
                "model_responses": api_response["text"],
                "model_responses_message_for_chat_history": {"role": "assistant", "content": api_response["text"]},
                "input_token": api_response["read"],
                "output_token": api_response["written"],
            }

        def decode_execute(self, result: str, has_tool_call_tag: bool) -> list[str]:
            if computes(result):
                return [UNKNOWN]
            return harmless(super().decode_execute(result, has_tool_call_tag), known)

    return Bridged


def main() -> None:
    """Hold the conversations of the job. Results and memories go into BFCL_PROJECT_ROOT."""
    link = Link()
    # The table of models imports every vendor's client; this one has one model.
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {}  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    from bfcl_eval._llm_response_generation import main as generate
    from bfcl_eval.constants.eval_config import TEST_IDS_TO_GENERATE_PATH
    from bfcl_eval.utils import load_dataset_entry

    category, wanted = link.job["category"], set(link.job["ids"])
    entries = load_dataset_entry(category)
    missing = wanted - {entry["id"] for entry in entries}
    if missing:
        raise SystemExit(f"the package has no question {sorted(missing)[0]!r}; give the questions of its own release")
    scenarios = {entry["scenario"] for entry in entries if entry["id"] in wanted}
    ids = [e["id"] for e in entries if e["id"] in wanted or ("prereq" in e["id"] and e["scenario"] in scenarios)]
    known = frozenset(function["name"] for entry in entries for function in entry["function"])
    with open(TEST_IDS_TO_GENERATE_PATH, "w", encoding="utf-8") as file:
        json.dump({category: ids}, file)
    models.MODEL_CONFIG_MAPPING["bridged"] = types.SimpleNamespace(  # type: ignore[attr-defined]
        model_handler=handler(link, known), model_name="bridged", is_fc_model=False
    )
    generate(
        types.SimpleNamespace(
            model=["bridged"],
            test_category=[category],
            temperature=0.0,
            include_input_log=False,
            exclude_state_log=True,
            num_threads=link.job["threads"],
            result_dir=None,
            run_ids=True,
            allow_overwrite=False,
        )
    )
    # The thread that listens would wait for the parent.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
