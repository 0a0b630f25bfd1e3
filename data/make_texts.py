"""Makes more_glosses.txt.xz and messages.txt.xz, text to train language models on, from two public packages.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb debian
    pip download --no-deps django==5.2.8
    python data/make_texts.py --wordnet debian/usr/share/wordnet --django django-5.2.8-py3-none-any.whl

writes both beside this script (or into `--out`), or that one whose package is given, and then `checksums.txt`. The
inputs are checked by sha256 first. Every line is "kind, tab, text": of a gloss the kind is its category in WordNet
("noun.animal"), of a message its language ("de"). The order is that of the sha256 of the texts, so it depends on no
random generator. The files are byte-reproducible with the same liblzma.
"""

import argparse
import gzip
import hashlib
import io
import lzma
import zipfile
from pathlib import Path

from babel.messages.pofile import read_po
from make_data import UNWANTED, WORDNET_SHA256, check, entry, parts, write_checksums

DJANGO_SHA256 = "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f"
FEWEST = 100  # messages of a language; English, the language of the code, has none to translate into

# The 45 files of WordNet's lexicographers, in the order of their numbers (lexnames(5WN)).
CATEGORIES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute",
    "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group",
    "noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant", "noun.possession",
    "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time",
    "verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition", "verb.consumption",
    "verb.contact", "verb.creation", "verb.emotion", "verb.motion", "verb.perception", "verb.possession", "verb.social",
    "verb.stative", "verb.weather", "adj.ppl",
)  # fmt: skip


def packed(lines: list[tuple[str, str]]) -> bytes:
    """(kind, text) in the order of the texts' hashes, compressed."""
    ordered = sorted(lines, key=lambda line: hashlib.sha256(line[1].encode()).digest())
    text = "".join(f"{kind}\t{text}\n" for kind, text in ordered)
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def more_glosses(folder: Path, have: list[str]) -> list[tuple[str, str]]:
    """(category, entry) of all entries of WordNet that `make_data.entry` takes and that are not in `have`.

    As there, an entry is passed over if its definition or one of its examples is in one already taken.
    """
    found = {}
    for name, sha256 in WORDNET_SHA256.items():
        for line in check((folder / name).read_bytes(), sha256, name).decode().splitlines():
            if text := entry(line):
                found[text] = CATEGORIES[int(line.split()[1])]
    seen, taken = set().union(*map(parts, have)), []
    for text in sorted(found, key=lambda text: hashlib.sha256(text.encode()).hexdigest()):
        if seen.isdisjoint(parts(text)):
            taken.append((found[text], text))
            seen |= parts(text)
    return taken


def messages(wheel: Path) -> list[tuple[str, str]]:
    """(language, message): what Django says to its users, in every language it is translated into; each text once."""
    check(wheel.read_bytes(), DJANGO_SHA256, wheel.name)
    found: dict[str, dict[str, None]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/LC_MESSAGES/django.po"):
                continue
            language = name.split("/")[-3]
            for message in read_po(io.BytesIO(archive.read(name))):
                texts = message.string if isinstance(message.string, tuple) else (message.string,)
                if message.id and not message.fuzzy:
                    clean = (" ".join(text.split()) for text in texts)
                    found.setdefault(language, {}).update((text, None) for text in clean if text)
    kept, taken = {}, set()
    for language, texts in found.items():
        if len(texts) >= FEWEST:
            kept[language] = [text for text in texts if text not in taken and not UNWANTED.search(text)]
            taken.update(kept[language])
    return [(language, text) for language, texts in kept.items() for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, help="folder with WordNet's data.noun, data.verb, data.adj, data.adv")
    parser.add_argument("--django", type=Path, help="the django 5.2.8 wheel")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    if not (args.wordnet or args.django):
        parser.error("name at least one package: --wordnet or --django")
    if args.wordnet:
        have = gzip.decompress((Path(__file__).parent / "glosses.txt.gz").read_bytes()).decode().splitlines()
        (args.out / "more_glosses.txt.xz").write_bytes(
            packed(more_glosses(args.wordnet, [line for line in have if line]))
        )
    if args.django:
        (args.out / "messages.txt.xz").write_bytes(packed(messages(args.django)))
    write_checksums(args.out)
    print((args.out / "checksums.txt").read_text(), end="")


if __name__ == "__main__":
    main()
