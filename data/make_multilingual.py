"""Makes multilingual.model, the tokenizer of PaLI-X, from the kit's own training texts: `tokenizer.multilingual`.

    python data/make_multilingual.py

Each text has a space before it, as the model will see it. Names, which are what it writes, count three times, the words
of prompts, which it sees in every example, twenty times; a seventh of the glosses is enough English beside sixteen
languages. Words are there in capitals, too, since `rendered` shows both. Chinese and Japanese alone have more
characters than a vocabulary of 4,096 should spend on them: 2 % of all characters, the rarest, are spelt in bytes. The
bytes of the file are reproducible with the same version of SentencePiece.
"""

from pathlib import Path

from make_data import write_checksums

from kitlib import data
from kitlib.data import captioned, tokenizer
from kitlib.multimodal import boxes
from kitlib.multimodal import prompts as prompts_module
from kitlib.synthetic import rendered_text

VOCAB_SIZE = 4096
COVERAGE = 0.98  # the least that SentencePiece allows


def corpus() -> list[str]:
    """All texts of the training splits, none of the others."""
    emoji = captioned.emoji("train")
    names = [name for language in captioned.LANGUAGES for name in emoji.names[language]]
    keywords = [word for language in captioned.LANGUAGES for words in emoji.keywords[language] for word in words]
    words = [word for vocabulary in rendered_text.words("train").values() for word in vocabulary]
    questions = sorted(set(captioned.easy_vqa("train").questions))
    prefixes = [
        prefix.format(language=language, position=0)
        for prefix in sorted(set(prompts_module.PREFIXES.values()))
        for language in captioned.LANGUAGES
        if prefix
    ]
    glosses = data.glosses("train")[::7]
    prompts = [*questions, *prefixes]
    return [f" {text}" for text in (*names * 3, *keywords, *words, *prompts * 20, *glosses)]


def main() -> None:
    folder = Path(__file__).parent
    symbols = [f"{tokenizer.SPACE}{i}" for i in range(boxes.BINS)] + [f"{tokenizer.SPACE};"]
    model = tokenizer.train(corpus(), VOCAB_SIZE, symbols=symbols, coverage=COVERAGE)
    (folder / "multilingual.model").write_bytes(model)
    write_checksums(folder)


if __name__ == "__main__":
    main()
