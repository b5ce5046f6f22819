"""Parser errors as one line for people."""


def explain(message: str) -> str:
    return message
