"""Makes names.txt.gz, what a thing is called in 35 languages, from one public package.

    npm pack cldr-annotations-full@48.2.0
    python data/make_names.py --cldr cldr-annotations-full-48.2.0.tgz

writes the file beside this script (or into `--out`), and then `checksums.txt`. The input is checked by sha256 first.
The first line of the file names the languages; every other line is a character of Unicode and its name in each of them,
lower case, separated by tabs; nothing where CLDR has no name of at most 12 letters. The file is byte-reproducible with
the same zlib; with another zlib the contents are the same and the bytes may differ.
"""

import argparse
import gzip
import json
import unicodedata
from collections import Counter
from pathlib import Path

from make_data import UNWANTED, write_checksums
from make_pictures import LEFT_OUT, clean, read_tar

LONGEST = 12  # letters of a name
FEWEST = 780  # names of a language: of those that are written in Latin letters, 35 have as many
RAREST = 20  # how often a letter occurs at least; names with a rarer one are left out


def latin(name: str) -> bool:
    """Whether a name has Latin letters only, and spaces, hyphens and apostrophes between them."""
    return name[:1].isalpha() and all(c in " -'’" or unicodedata.name(c, "").startswith("LATIN") for c in name)


def rows_of(content: bytes) -> dict:
    """A language's entries by thing, those that have a name."""
    rows = json.loads(content)["annotations"].get("annotations", {})
    return {thing: row for thing, row in rows.items() if row.get("tts")}


def names(cldr: Path) -> bytes:
    """The content of names.txt.gz."""
    files = read_tar(cldr, "cldr", r"package/annotations/(\w+)/annotations\.json")
    called: dict[str, dict[str, str]] = {}
    for language, content in files.items():
        found = {thing: clean(row["tts"][0]).lower() for thing, row in rows_of(content).items()}
        called[language] = {thing: name for thing, name in found.items() if len(name) <= LONGEST and latin(name)}
    english = {thing: clean(row["tts"][0]) for thing, row in rows_of(files["en"]).items()}
    left_out = {thing for thing, name in english.items() if LEFT_OUT.fullmatch(name) or UNWANTED.search(name)}
    languages = sorted(language for language, rows in called.items() if len(rows) >= FEWEST)
    letters = Counter(letter for language in languages for name in called[language].values() for letter in name)
    lines = ["\t".join(["", *languages])]
    for thing in sorted(set().union(*(called[language] for language in languages)) - left_out):
        row = [called[language].get(thing, "") for language in languages]
        row = [name if all(letters[letter] >= RAREST for letter in name) else "" for name in row]
        if any(row):
            lines.append("\t".join([thing, *row]))
    return gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cldr", type=Path, required=True, help="cldr-annotations-full 48.2.0, .tgz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    (args.out / "names.txt.gz").write_bytes(names(args.cldr))
    write_checksums(args.out)
    print((args.out / "checksums.txt").read_text(), end="")


if __name__ == "__main__":
    main()
