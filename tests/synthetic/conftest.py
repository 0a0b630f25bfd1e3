"""Vocabularies of rendered words, which several test files of this folder need."""

import pytest

from kitlib.synthetic.rendered_text import words


@pytest.fixture(scope="session")
def vocabularies():
    return {split: words(split) for split in ("train", "valid", "test")}


@pytest.fixture(scope="session")
def known(vocabularies):
    """All words of the training split, in all languages, each once; without the digits."""
    train = vocabularies["train"]
    return sorted({word for language in train if language != "digits" for word in train[language]})
