"""Asks `stic-trainer serve` with OpenAI's own client, and compares its answers with those of `stic-trainer evaluate`.

    python tests/parity/check_serving.py --trainer $STIC_BIN/stic-trainer --model MODEL --adapter DIR --images DIR --questions FILE
"""

import argparse
import base64
import json
import re
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

from common import Checks, Trainer, read_lines

QUESTIONS, ANSWER_TOKENS, CLIENTS = 12, 16, 8  # answers have as many tokens as `evaluate` gives them


class Server:
    """`stic-trainer serve` on a free port, and a client of it."""

    def __init__(self, trainer: Trainer, *arguments: object) -> None:
        command = [str(trainer.binary), "serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"serving .* address=(\S+)", line):
                self.url = f"http://{found[1]}/v1"
                break
        else:
            raise SystemExit("the server ended before it served")
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=20)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def request(self, model: str, image: Path, question: str) -> dict:
        """The fields that lmms-eval and VLMEvalKit send."""
        data = base64.b64encode(image.read_bytes()).decode()
        picture = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}", "detail": "low"}}
        content = [picture, {"type": "text", "text": question}]
        return dict(model=model, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=ANSWER_TOKENS)


def evaluated(trainer: Trainer, options: argparse.Namespace, scratch: Path) -> dict[tuple[str, str], str]:
    """The direct answers of `evaluate` to the first questions, by policy and question."""
    heldout, output = scratch / "heldout", scratch / "out"
    heldout.mkdir()
    (heldout / "images").symlink_to(options.images / "images")
    lines = options.questions.read_text().splitlines()[:QUESTIONS]
    (heldout / "questions.jsonl").write_text("".join(line + "\n" for line in lines))
    trainer.run("evaluate", "--model", options.model, "--adapter", f"tuned={options.adapter}", "--benchmark", f"Scenes={heldout}",
                "--prompting", "direct", "--output", output)
    answers = {}
    for subject in json.loads((output / "subjects.json").read_text()):
        for row in read_lines(output / subject["answers"]):
            question = row["id"].removeprefix("Scenes/").rsplit(" ", 1)[0]
            answers[subject["subject"], question] = row["answer"]
    return answers


def check_answers(server: Server, checks: Checks, options: argparse.Namespace, expected: dict[tuple[str, str], str]) -> None:
    rows = read_lines(options.questions)[:QUESTIONS]
    cases = [(model, row) for row in rows for model in ("base", "tuned")]

    def ask(case: tuple[str, dict]) -> openai.types.chat.ChatCompletion:
        model, row = case
        return server.client.chat.completions.create(**server.request(model, options.images / row["image"], row["question"]))

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, cases))
    for (model, row), answer in zip(cases, answers):
        text = answer.choices[0].message.content
        checks.that(text == expected[model, row["id"]], f"{model} on {row['id']}", f"{text!r}, not {expected[model, row['id']]!r}")
    usage = answers[0].usage
    checks.that(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "the usage adds up")

    model, row = cases[1]
    chunks = list(server.client.chat.completions.create(
        **server.request(model, options.images / row["image"], row["question"]), stream=True,
        stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    checks.that(text == expected[model, row["id"]], "a streamed answer is the same text", repr(text))
    checks.that(chunks[-1].usage == answers[1].usage, "a streamed answer has the same usage")


def check_refusals(server: Server, checks: Checks, model_name: str) -> None:
    create = server.client.chat.completions.create
    question = [{"role": "user", "content": "How many shapes are there?"}]
    names = [model.id for model in server.client.models.list()]
    checks.that(names == [model_name, "tuned"], "the models are listed", str(names))
    try:
        create(model="gpt-4o", messages=question)
        checks.that(False, "an unknown model is not found")
    except openai.NotFoundError as error:
        checks.that(error.code == "model_not_found", "an unknown model is not found", str(error))
    url = {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}}
    try:
        create(model="tuned", messages=[{"role": "user", "content": [url]}])
        checks.that(False, "the server opens no URL")
    except openai.BadRequestError as error:
        checks.that("data:image/jpeg;base64" in error.message, "the server opens no URL", str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("trainer", "model", "adapter", "images", "questions"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    trainer, checks = Trainer(options.trainer), Checks()
    with tempfile.TemporaryDirectory() as scratch:
        expected = evaluated(trainer, options, Path(scratch))
    arguments = ["--model", options.model, "--adapter", f"tuned={options.adapter}"]
    with Server(trainer, *arguments) as server:
        check_answers(server, checks, options, expected)
        check_refusals(server, checks, options.model.name)
        server.process.send_signal(signal.SIGTERM)
        checks.that(server.process.wait() == 75, "SIGTERM ends the server with code 75")
    # The client tries again when it is told that the queue is full.
    with Server(trainer, *arguments, "--responses-at-once", 1, "--max-queue", 1) as server:
        check_answers(server, checks, options, expected)
    checks.finish()


if __name__ == "__main__":
    main()
