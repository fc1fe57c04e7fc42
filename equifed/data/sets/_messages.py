"""What a model is told of a question and its answer, or of a whole conversation."""

import json
from collections.abc import Callable
from typing import Any

from ..._check import checked
from ..._words import listed, shown
from ._tokens import Pieces


_ROLES = ("system", "user", "assistant")


@checked()
def chat_ml(
    instruction: str, response: str, *, system: str | None = None
) -> Callable[[dict[str, str]], Pieces]:
    """The template of SmolLM2, Qwen and others, of one question and its answer.

    ```
    <|im_start|>system
    {system}<|im_end|>
    <|im_start|>user
    {instruction}<|im_end|>
    <|im_start|>assistant
    {response}<|im_end|>
    ```

    The answer is asked, and that it ends.

    **Arguments:**

    - `instruction`, `response`: The columns of the question and of the answer.
    - `system`: What the model is told first; nothing by default.
    """

    def template(example):
        turns = [("system", system)] if system is not None else []
        said = (_text(example, name) for name in (instruction, response))
        turns += zip(("user", "assistant"), said, strict=True)
        return _as_pieces(turns)

    return template


@checked()
def chat_ml_messages(
    column: str, *, system: str | None = None
) -> Callable[[dict[str, str]], Pieces]:
    r"""The template of SmolLM2, Qwen and others, of a whole conversation.

    Each message is `<|im_start|>{role}\n{content}<|im_end|>\n`. What the assistant says
    is asked in every turn, and that it ends there; what it answers to is read alone. A
    conversation of one question and one answer is as [`equifed.data.sets.chat_ml`][]
    has it.

    !!! example

        ```python
        def as_text(row):
            return {"messages": json.dumps(row["messages"])}

        rows = datasets.load_dataset("HuggingFaceTB/smoltalk", "all", split="train")
        clients = eqf.data.FederatedDataset.from_huggingface(
            rows.map(as_text), by="source", columns=["messages"]
        )
        clients = eqf.data.sets.instructions(
            clients, tokenizer, eqf.data.sets.chat_ml_messages("messages"),
            columns=["messages"], length=512, end=2,
        )
        ```

    **Arguments:**

    - `column`: The column of conversations: of each the JSON text of its messages,
        `[{"role": "user", "content": "Who?"}, ...]`, whose roles are `system`, `user`
        and `assistant`.
    - `system`: What the model is told first in conversations that tell it nothing;
        nothing by default.

    **Raises:**

    What is returned raises `ValueError` if a text is no such list, or if nobody in it
    is the assistant.
    """

    def template(example):
        messages = _messages(_text(example, column), column)
        turns = [(x["role"], x["content"]) for x in messages]
        if system is not None and turns[0][0] != "system":
            turns = [("system", system), *turns]
        return _as_pieces(turns)

    return template


def _text(example: dict[str, str], column: str) -> str:
    if column not in example:
        raise ValueError(
            f"The template reads column {column!r}, and is given {listed(example)}. "
            "`columns=` of `instructions` says which ones it is given."
        )
    return example[column]


def _as_pieces(turns: list[tuple[str, str]]) -> Pieces:
    """What is read, and what the assistant says, which is asked."""
    pieces, read = [], ""
    for role, content in turns:
        read += f"<|im_start|>{role}\n"
        said = f"{content}<|im_end|>"
        if role == "assistant":
            pieces += [(read, False), (said, True)]
            read = "\n"
        else:
            read += f"{said}\n"
    return pieces


def _messages(text: str, column: str) -> list[dict[str, str]]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(map(_is_message, found)):
        raise ValueError(
            f"Column {column!r} must hold conversations, the JSON text of "
            '[{"role": "user", "content": "..."}, ...] with the roles system, user and '
            f"assistant, got {shown(text)}."
        )
    if not any(x["role"] == "assistant" for x in found):
        raise ValueError(
            f"A conversation of column {column!r} has no message of the assistant, so "
            f"that nothing of it is asked: {shown(text)}. Leave it out."
        )
    return found


def _is_message(x: Any) -> bool:
    return (
        isinstance(x, dict)
        and x.get("role") in _ROLES
        and isinstance(x.get("content"), str)
    )
