"""Write the parity cases of MRCR and RULER: synthetic records of the published schemas, and responses to them.

    python scripts/parity/needle_cases.py --openbench DIR --ruler DIR

The expected values are those of the official functions (mrcr.py, ruler.py beside this), run from checkouts of
groq/openbench and NVIDIA/RULER; where thinking is cut off, ours are named here with the reason. Needs Python alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
from pathlib import Path

import mrcr
import ruler

PARITY = Path(__file__).resolve().parents[2] / "tests" / "parity"
PREFIX = "k7WqZp02Xa"
UNFINISHED = "a response whose thinking never ends is no answer"
THINKING = "thinking is cut off, with the white space behind it"
ROUNDED = "the official metric rounds percent to two decimals"

SHORT = "The ferry leaves at nine."
LONG = (
    "The harbour lay quiet when the first boats came in, low in the water with mackerel and salt.\n"
    "Old Marit stood on the pier and counted them, as she had counted them for forty years: six, seven, eight.\n"
    "The ninth was late. She pulled her shawl tight and looked to where the fog began.\n"
    "Nobody spoke. A gull walked along the rail, thought better of it, and flew off towards the church.\n"
    "Then, far out, a lantern swung twice to the left, and Marit laughed aloud and went to put the kettle on."
)
OTHER = (
    "In the mountains the winter had come early, and the road to the pass was closed before the last of the sheep "
    "were down. Jonas walked up alone with two dogs and a sack of bread, slept in the shepherd's hut, and found "
    "them on the third day under an overhang, warm and cross, all thirty-one of them."
)
UMLAUTS = "Über den Dächern 夜の港 glänzt 🌊 das Meer – «still» und weit."


def needle(answer: str, needles: int = 2) -> dict:
    """Return a record whose second answer to the same request is wanted."""
    request = "Write a short story about the sea."
    prompt = [
        {"role": "user", "content": request},
        {"role": "assistant", "content": OTHER},
        {"role": "user", "content": request},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"Put {PREFIX} before your second story about the sea and repeat it."},
    ]
    return {
        "prompt": json.dumps(prompt, ensure_ascii=False),
        "answer": PREFIX + answer,
        "random_string_to_prepend": PREFIX,
        "n_needles": needles,
        "desired_msg_index": 3,
        "total_messages": len(prompt),
        "n_chars": sum(len(message["content"]) for message in prompt),
    }


def mrcr_cases() -> list[dict]:
    """Return the cases of MRCR without values."""
    words = LONG.split()
    swapped = " ".join(word for pair in zip(words[1::2], words[::2], strict=False) for word in pair)
    halves = LONG[len(LONG) // 2 :] + LONG[: len(LONG) // 2]
    plain = [
        # id, answer, response, trap, wrong scorer
        ("exact-short", SHORT, PREFIX + SHORT, "", ""),
        ("exact-long", LONG, PREFIX + LONG, "", ""),
        ("exact-unicode", UMLAUTS, PREFIX + UMLAUTS, "", ""),
        ("no-prefix", LONG, LONG, "prefix", "prefix_not_needed"),
        ("prefix-alone", LONG, PREFIX, "prefix", "prefix_kept"),
        ("empty", LONG, "", "", ""),
        ("blank-before-prefix", LONG, f" {PREFIX}{LONG}", "prefix", "stripped"),
        ("line-before-prefix", LONG, f"\n{PREFIX}{LONG}", "prefix", "prefix_anywhere"),
        ("chatter-before-prefix", LONG, f"Sure! {PREFIX}{LONG}", "prefix", "prefix_anywhere"),
        ("quoted-prefix", LONG, f'"{PREFIX}{LONG}"', "prefix", "prefix_anywhere"),
        ("prefix-other-case", LONG, PREFIX.lower() + LONG, "prefix", ""),
        ("prefix-cut", LONG, PREFIX[:-1] + LONG, "prefix", "prefix_not_needed"),
        ("prefix-twice", SHORT, PREFIX + PREFIX + SHORT, "prefix", "prefix_kept"),
        ("prefix-at-the-end", LONG, LONG + PREFIX, "prefix", "prefix_not_needed"),
        ("blank-behind-prefix", SHORT, f"{PREFIX} {SHORT}", "white space", "stripped"),
        ("trailing-lines", SHORT, f"{PREFIX}{SHORT}\n\n", "white space", "stripped"),
        ("wrong-needle", LONG, PREFIX + OTHER, "autojunk", "without_autojunk"),
        ("both-needles", LONG, PREFIX + OTHER + "\n" + LONG, "autojunk", "arguments_swapped"),
        ("first-half", LONG, PREFIX + LONG[: len(LONG) // 2], "", "prefix_kept"),
        ("second-half", LONG, PREFIX + LONG[len(LONG) // 2 :], "", "prefix_kept"),
        ("halves-swapped", LONG, PREFIX + halves, "order", ""),
        ("words-swapped", LONG, PREFIX + swapped, "autojunk", "without_autojunk"),
        ("one-line", LONG, PREFIX + LONG.replace("\n", " "), "white space", "by_words"),
        ("upper-case", LONG, PREFIX + LONG.upper(), "autojunk", "without_autojunk"),
        ("no-vowels", LONG, PREFIX + "".join(c for c in LONG if c not in "aeiou"), "autojunk", "without_autojunk"),
        ("backwards", LONG, PREFIX + LONG[::-1], "autojunk", "without_autojunk"),
        ("order-of-arguments", "diet", PREFIX + "tide", "order", "arguments_swapped"),
        ("order-short", "tide comes", PREFIX + "diet comes in", "order", "arguments_swapped"),
        ("runaway", SHORT, PREFIX + (SHORT + " ") * 40, "", ""),
        ("runaway-letter", LONG, PREFIX + "e" * 3000, "autojunk", "without_autojunk"),
        ("at-199-characters", LONG[:199], PREFIX + OTHER[:220], "autojunk", ""),
        ("at-200-characters", LONG[:200], PREFIX + OTHER[:220], "autojunk", "without_autojunk"),
        ("long-response-short-answer", SHORT, PREFIX + LONG, "order", "arguments_swapped"),
        ("emoji-lost", UMLAUTS, PREFIX + UMLAUTS.replace("🌊 ", ""), "", "prefix_kept"),
        ("bold", SHORT, f"**{PREFIX}{SHORT}**", "prefix", "prefix_anywhere"),
        ("refusal", LONG, "I cannot find it in our conversation.", "prefix", "prefix_not_needed"),
    ]
    cases = [
        {"id": name, "record": needle(answer, 2 ** (1 + n % 3)), "response": response, "trap": trap, "scorer": scorer}
        for n, (name, answer, response, trap, scorer) in enumerate(plain)
    ]
    thought = [
        ("thinking", f"<think>The second one.</think>\n\n{PREFIX}{SHORT}", 1.0, THINKING, "prefix_kept"),
        ("thinking-template", f"The second one.\n</think>\n\n{PREFIX}{SHORT}", 1.0, THINKING, "prefix_kept"),
        ("thinking-unfinished", f"<think>{PREFIX}{SHORT}", 0.0, UNFINISHED, "thinking_kept"),
        ("thinking-holds-it", f"<think>{PREFIX}{SHORT}</think>\nDone.", 0.0, "", "prefix_anywhere"),
    ]
    for name, response, ours, deviation, scorer in thought:
        case = {"id": name, "record": needle(SHORT), "response": response, "trap": "thinking", "scorer": scorer}
        cases.append(case | ({"ours": ours, "deviation": deviation} if deviation else {}))
    return cases


def item(task: str, *outputs: str) -> dict:
    """Return a record of the suite with a context of one sentence."""
    lead, context, question = "Read the text.", "The answers are not repeated here.", "What was asked for?"
    return {
        "id": f"{task}-64-0",
        "task": task,
        "length": 64,
        "n_tokens": 30,
        "input": f"{lead}\n\n{context}\n\n{question}",
        "outputs": list(outputs),
        "context": [len(lead) + 2, len(lead) + 2 + len(context)],
        "question": question,
        "instruction": "",
        "depths": [0.5],
    }


def ruler_cases() -> list[dict]:
    """Return the cases of RULER without values."""
    number, code = "4837261", "0f8fad5b-d9cb-469f-a165-70867728950e"
    four = ("4837261", "1122334", "9081726", "5550001")
    names = ("QWXYZ", "ABCDE", "MNOPQ", "RSTUV", "FGHIJ")
    ten = ("harbour", "lantern", "meadow", "quartz", "ribbon", "saddle", "thistle", "umbrella", "valley", "walnut")
    capital = ("New York", "New York City", "NYC")
    plain = [
        # id, record, response, trap, wrong scorer
        ("single", item("niah_single_1", number), f"The number is {number}.", "", "exact"),
        ("single-bare", item("niah_single_1", number), number, "", ""),
        ("single-wrong", item("niah_single_1", number), "The number is 4837262.", "", ""),
        ("single-empty", item("niah_single_2", number), "", "", ""),
        ("inside-a-longer-number", item("niah_single_2", number), "94837261", "substring", "whole_words"),
        ("glued-to-a-word", item("niah_multikey_1", number), f"answer{number}x", "substring", "whole_words"),
        ("with-commas", item("niah_single_1", number), "4,837,261", "format", "digits_only"),
        ("broken-by-a-blank", item("niah_single_1", number), "4837 261", "format", ""),
        ("broken-by-a-line", item("niah_single_1", number), "4837\n261", "format", ""),
        ("broken-by-a-control-character", item("niah_single_1", number), "4837\x00261", "control", ""),
        ("behind-a-control-character", item("niah_single_1", number), f"\x01{number}\x02", "control", "exact"),
        ("twice", item("niah_multikey_2", number), f"{number} {number}", "", "exact"),
        ("hedged", item("niah_multikey_2", number), f"1111111, 2222222 or {number}", "lists", "exact"),
        ("uuid", item("niah_single_3", code), code, "", ""),
        ("uuid-upper-case", item("niah_multikey_3", code), code.upper(), "case", "case_sensitive"),
        ("uuid-without-dashes", item("niah_multikey_3", code), code.replace("-", ""), "format", ""),
        ("uuid-cut", item("niah_multikey_3", code), code[:-1], "", ""),
        ("four-of-four", item("niah_multivalue", *four), "; ".join(four), "", "exact"),
        ("four-in-another-order", item("niah_multiquery", *four), ", ".join(four[::-1]), "order", "exact"),
        ("three-of-four", item("niah_multivalue", *four), ", ".join(four[:3]), "share", "all_or_nothing"),
        ("two-of-four", item("niah_multivalue", *four), " ".join(four[1:3]), "share", "any_is_enough"),
        ("one-of-four", item("niah_multiquery", *four), four[3], "share", "any_is_enough"),
        ("none-of-four", item("niah_multiquery", *four), "7000000", "", ""),
        ("chain", item("vt", *names), " ".join(names), "", "exact"),
        ("chain-in-lower-case", item("vt", *names), " ".join(names).lower(), "case", "case_sensitive"),
        ("chain-three-of-five", item("vt", *names), "QWXYZ, MNOPQ and FGHIJ", "share", "all_or_nothing"),
        ("chain-glued", item("vt", *names), "".join(names), "substring", "whole_words"),
        ("common-all", item("cwe", *ten), " ".join(f"{n}. {w}" for n, w in enumerate(ten, 1)), "", "exact"),
        ("common-seven", item("cwe", *ten), ", ".join(ten[:7]), "share", "any_is_enough"),
        ("common-plurals", item("cwe", *ten), ", ".join(f"{word}s" for word in ten), "substring", "whole_words"),
        ("frequent-all", item("fwe", "qrkzab", "wpltcd", "mvbnef"), "qrkzab wpltcd mvbnef", "", "exact"),
        ("question", item("qa_1", *capital), "New York City", "any", "share_for_questions"),
        ("question-sentence", item("qa_1", *capital), "It is in new york, I think.", "any", "share_for_questions"),
        ("question-broken-line", item("qa_1", *capital), "New\nYork", "control", ""),
        ("question-tab", item("qa_1", *capital), "New\tYork", "control", ""),
        ("question-yes", item("qa_2", "yes"), "Yes, both are rivers.", "case", "case_sensitive"),
        ("question-no-in-a-word", item("qa_2", "no"), "Nothing is known.", "substring", "whole_words"),
        ("question-wrong", item("qa_2", "Oslo"), "Bergen", "", ""),
    ]
    cases = [
        {"id": name, "record": record, "response": response, "trap": trap, "scorer": scorer}
        for name, record, response, trap, scorer in plain
    ]
    special = [
        (
            "frequent-two",
            item("fwe", "qrkzab", "wpltcd", "mvbnef"),
            "mvbnef qrkzab",
            "share",
            "all_or_nothing",
            2 / 3,
            ROUNDED,
        ),
        (
            "thinking-only",
            item("niah_single_1", number),
            f"<think>{number}</think>I do not know.",
            "thinking",
            "thinking_counts",
            0.0,
            THINKING,
        ),
        (
            "thinking-unfinished",
            item("niah_single_1", number),
            f"<think>It is {number}",
            "thinking",
            "thinking_counts",
            0.0,
            UNFINISHED,
        ),
    ]
    for name, record, response, trap, scorer, ours, deviation in special:
        case = {"id": name, "record": record, "response": response, "trap": trap, "scorer": scorer}
        cases.append(case | {"ours": ours, "deviation": deviation})
    return cases


def write(name: str, cases: list[dict], official, checkout: Path, about: dict, rules: tuple[str, ...]) -> None:
    """Run the official function, and write cases.jsonl and official.json."""
    names: dict = {}
    exec((PARITY / f"wrong_{name}.py").read_text(encoding="utf-8"), names)
    score, values, lines = official(checkout), {}, []
    for case in cases:
        theirs = values[case["id"]] = score(case["record"], case["response"])
        ours = case.pop("ours", theirs)
        scorer, deviation = case.pop("scorer"), case.pop("deviation", "")
        wrong = {}
        if scorer:
            wrong = {"scorer": scorer, "value": names["SCORERS"][scorer](case["record"], case["response"])}
            if abs(wrong["value"] - ours) < 1e-9:
                raise SystemExit(f"{name} {case['id']}: {scorer} gives the right value {ours}")
        case |= {"expected": {rule: ours for rule in rules}, "source": "official", "rule": "", "wrong": wrong}
        if deviation:
            case |= {"deviation": deviation, "official_value": theirs}
        lines.append(json.dumps(case, ensure_ascii=False, sort_keys=True) + "\n")
    (PARITY / name / "cases.jsonl").write_text("".join(lines), encoding="utf-8")
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    stated = about | {
        "commit": commit,
        "command": f"python scripts/parity/{name}.py --checkout DIR --cases tests/parity/{name}/cases.jsonl --out FILE",
        "environment": {"python": platform.python_version(), "packages": "none"},
        "cases": len(values),
        "output_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    (PARITY / name / "official.json").write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{name}: {len(lines)} cases")


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openbench", type=Path, required=True)
    parser.add_argument("--ruler", type=Path, required=True)
    given = parser.parse_args()
    about = {"scorer": "groq/openbench", "path": f"{mrcr.PATH}: _sequence_ratio"}
    write("mrcr", mrcr_cases(), mrcr.scorer, given.openbench, about, ("official", "ratio"))
    about = {"scorer": "NVIDIA/RULER", "path": f"{ruler.METRICS}, {ruler.CLEANING}: postprocess_pred"}
    write("ruler", ruler_cases(), ruler.scorer, given.ruler, about, ("official",))


if __name__ == "__main__":
    main()
