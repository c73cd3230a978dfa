"""The conversation about one picture: which rounds it has, and the exact text around every answer.

Layout (ExpLLM, released code, `datasets/convsersation.py`; the wording here is our own)::

    {system}\\n
    Image:{image tokens}\\n
    TASK: {description}\\n
    USER: {question}\\n
    ASSISTANT: {answer}</s>TASK: {description}\\n ...

The wording lives in `templates/*.json`, so that another wording is another file and never another code path. Such a
file is one JSON object; every text in it is used exactly as written, white space included::

    {
      "name":   what the template is called
      "system": the line that opens the conversation
      "roles":  {"image": "Image:", "task": "TASK:", "user": "USER:", "assistant": "ASSISTANT:"}
      "tasks":  {"label": {"description": …, "question": …}, "cot": {"description": …, "question": …}, …}
    }

A template words as many of the TASKS as it is used for.

The line ends, the space behind a role, and the end token are the layout's and are not written in the file. To run a
released checkpoint, write its own sentences into a copy of `templates/released_form.json`, which has white space where
the released wording has it (behind the system line and the CoT description), and use the layout "reference".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records.answers import TASKS, Size, answer_of, check_task

EXPRESSION_TASKS = ("label", "cot")
"""The tasks of ExpLLM's last stage, and the default: the expression in one word, and the three-part text."""

TEMPLATE_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Round:
    """One question and its answer. `answer` is the bare text: no leading space, no end token."""

    task: str
    answer: str

    def __post_init__(self) -> None:
        check_task(self.task)
        if not self.answer.strip():
            raise ExpllmError(f"the answer of a {self.task!r} round is empty", "leave the round out instead")


def rounds_of(
    annotation: Annotation, tasks: Iterable[str] = EXPRESSION_TASKS, size: Size | None = None
) -> tuple[Round, ...]:
    """The rounds that `annotation` has an answer for, in the order of `tasks`; what it lacks is left out.

    Args:
      annotation: what is known of the face.
      tasks: some of TASKS.
      size: width and height of the picture whose pixels the annotation counts; positions cannot be stated without.

    Raises:
      ExpllmError: nothing is left (a record that supervises nothing is a mistake, not a record), or as `answer_of`.
    """
    tasks = tuple(tasks)
    answers = {task: answer_of(annotation, task, size) for task in tasks}
    rounds = tuple(Round(task, answer) for task, answer in answers.items() if answer)
    if not rounds:
        raise ExpllmError(
            f"{annotation.picture}: the annotation has no answer for any of the tasks {', '.join(tasks)}",
            "give it what one of them asks for, or ask for other tasks",
        )
    return rounds


@dataclass(frozen=True)
class TaskWords:
    """How one task is put: a one-sentence description and the user's question."""

    description: str
    question: str


@dataclass(frozen=True)
class Roles:
    """What opens each line of the conversation."""

    image: str
    task: str
    user: str
    assistant: str


@dataclass(frozen=True)
class ConversationTemplate:
    """The wording of a conversation. The texts it hands out are tokenised separately and then joined, in training
    and in inference alike, so that no token ever spans two of them."""

    name: str
    system: str
    roles: Roles
    tasks: Mapping[str, TaskWords]

    @classmethod
    def load(cls, name_or_path: str | Path) -> ConversationTemplate:
        """Reads a shipped template by name ("face_v1") or any template by path (`….json`).

        Raises ExpllmError naming the file, and the key or line that is wrong.
        """
        shipped = TEMPLATE_FOLDER / f"{name_or_path}.json"
        path = shipped if shipped.is_file() else Path(name_or_path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in TEMPLATE_FOLDER.glob("*.json")))
            raise ExpllmError(
                f"conversation template {str(name_or_path)!r} cannot be read ({error.strerror})",
                f"use a shipped one ({names}) or the path of a JSON file",
            ) from error
        except ValueError as error:
            raise ExpllmError(
                f"{path} is not JSON: {error}", f"compare it with {TEMPLATE_FOLDER}/face_v1.json"
            ) from error
        return cls.from_json(fields, str(path))

    @classmethod
    def from_json(cls, fields: Mapping, where: str = "conversation template") -> ConversationTemplate:
        """Builds the template from the parsed JSON object; `where` names its origin in errors."""
        try:
            template = cls(
                name=fields["name"],
                system=fields["system"],
                roles=Roles(**fields["roles"]),
                tasks={task: TaskWords(**words) for task, words in fields["tasks"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ExpllmError(
                f"{where}: a key is missing or unknown ({error})", "give it the keys of templates/face_v1.json"
            ) from error
        if not template.tasks or not set(template.tasks) <= set(TASKS):
            raise ExpllmError(
                f"{where}: tasks words {', '.join(template.tasks) or 'nothing'}", f"use some of: {', '.join(TASKS)}"
            )
        for key, text in template._texts():
            if not isinstance(text, str) or not text:
                raise ExpllmError(f"{where}: {key} must be a text that is not empty", "write the sentence")
        return template

    def to_json(self) -> dict:
        """The plain JSON object that `from_json` reads."""
        fields = asdict(self)
        fields["tasks"] = {task: asdict(words) for task, words in self.tasks.items()}
        return fields

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the wording. White space and key order of the file do not matter."""
        canonical = json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def check_worded(self, task: str) -> None:
        """Raises ExpllmError unless the template has words for `task`."""
        check_task(task)
        if task not in self.tasks:
            raise ExpllmError(
                f"the conversation template {self.name!r} has no words for the task {task!r}",
                f'write "{task}": {{"description": …, "question": …}} under its "tasks", or leave the task out',
            )

    def prefix_text(self) -> str:
        """What stands before the image tokens."""
        return f"{self.system}\n{self.roles.image}"

    def prompt_text(self, task: str, *, after_image: bool = True) -> str:
        """From behind the image tokens (or, in a later round of a chain, behind the end token) to "ASSISTANT:".

        Raises ExpllmError like `check_worded`.
        """
        self.check_worded(task)
        words, roles = self.tasks[task], self.roles
        text = f"{roles.task} {words.description}\n{roles.user} {words.question}\n{roles.assistant}"
        return "\n" + text if after_image else text

    def answer_text(self, answer: str) -> str:
        """What follows "ASSISTANT:", before the end token. The space belongs to the answer's first word piece."""
        return " " + answer

    def _texts(self) -> Iterator[tuple[str, object]]:
        yield "name", self.name
        yield "system", self.system
        yield from ((f"roles.{key}", text) for key, text in asdict(self.roles).items())
        for task, words in self.tasks.items():
            yield from ((f"tasks.{task}.{key}", text) for key, text in asdict(words).items())


def training_texts(conversations: Iterable[Iterable[Round]], template: ConversationTemplate) -> Iterator[str]:
    """Every text that the encoder will tokenise for these conversations, for training a tokenizer on."""
    for rounds in conversations:
        yield template.prefix_text()
        for round_ in rounds:
            yield template.prompt_text(round_.task)
            yield template.answer_text(round_.answer)
