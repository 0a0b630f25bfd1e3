"""Makes the committed files of captioned pictures and of questions about pictures from five public packages.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 cldr-annotations-full@48.2.0
    pip download --no-deps easy-vqa==1.0
    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb debian
    python data/make_pictures.py --noto emoji-datasource-google-16.0.0.tgz \\
        --twemoji emoji-datasource-twitter-16.0.0.tgz --cldr cldr-annotations-full-48.2.0.tgz \\
        --easy-vqa easy_vqa-1.0-*.whl --wordnet debian/usr/share/wordnet

writes `emoji.npz`, `emoji_names.json.gz`, `easy_vqa.npz` and `taxonomy.json.gz` beside this script (or into `--out`),
and then `checksums.txt`. The inputs are checked by sha256 first. Which emoji are in which split is decided by the
sha256 of their original pictures, their order by that of their codes, never by a random generator. The files are
byte-reproducible with the same zlib and Pillow; with another zlib the contents are the same and the bytes may differ.
"""

import argparse
import gzip
import hashlib
import io
import json
import re
import tarfile
import unicodedata
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from make_data import UNWANTED, WORDNET_SHA256, check, write_checksums, write_npz
from PIL import Image

from kitlib.data.captioned import ANSWERS, LANGUAGES

SHA256 = {
    "noto": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "twemoji": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "cldr": "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    "easy_vqa": "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
}
SIZE = 32
KEYWORDS = 6  # at most, for each emoji and language
SHARES = {"test": 0.12, "valid": 0.08}  # the rest trains
LARGEST = 6  # a family of more pictures always trains: in a small split it would be a large share
ALIKE = 0.97  # cosine of two pictures from which they count as near duplicates

# What a class can do without: weapons (a kitchen knife is a tool), alcohol, tobacco, gambling, and what is coarse.
LEFT_OUT = re.compile(
    r"bomb|bow and arrow|crossed swords|dagger|firecracker|water pistol|"
    r"beer mug|bottle with popping cork|clinking .*|cocktail glass|sake|tropical drink|tumbler glass|wine glass|"
    r"cigarette|slot machine|love hotel|middle finger|no one under eighteen|pile of poo|.* with bunny ears"
)
UNWANTED_KEYWORD = re.compile(
    r"alcohol|alkollü|ass|booze|bs|caca|cocô|drugs|drunk|gun|kaka|lust|pissed|poop|scopare|seksi|sexy|sucks|turd|weapon|"
    r"пьяный|เมาเหล้า|性感|放屁|泼贱|똥|섹시|엉덩이"
)

# Families, which stay in one split. First, Unicode's subgroups whose pictures differ in a detail only.
SUBGROUPS = re.compile(
    r"face-(affection|concerned|glasses|hand|hat|negative|neutral-skeptical|sleepy|smiling|tongue|unwell)|cat-face|"
    r"monkey-face|person|family|hands|hand-(fingers-.*|single-finger)|heart|"
    r"alphanum|arrow|av-symbol|award-medal|gender|geometric|keycap|math|punctuation|religion|transport-sign|warning|zodiac"
)
# Second, what has these English names.
NAMED = (
    r".*(o’clock|-thirty)", r".*\bmoon( face)?", r"sun( .*)?|.*\bcloud\b.*", r"sun(rise|set).*", r"globe .*",
    r"cityscape.*|night with stars|bridge at night|milky way", r"snow-capped .*|mountain", r"(glowing )?star",
    r"mer(maid|man|person)", r".*\bClaus", r"prince(ss)?|person with crown", r"family.*|bust.*", r".* fist|thumbs .*",
    r"(closed |open )?book|notebook.*|ledger", r".*mailbox.*", r"(outbox|inbox) tray", r"(open )?file folder",
    r".*calendar", r".*\bpaperclips?", r".*banknote", r"chart .*creasing.*", r"(un)?locked.*", r"hourglass.*",
    r"broken chain|chains|link", r"magnifying glass.*", r"camera.*", r"mobile phone.*|vibration mode", r".* suit",
    r"(low )?battery", r".*\bspeaker\b.*", r"musical (note|score)s?", r"snowman.*", r"(.* )?umbrella( .*)?",
    r"speech balloon|.* bubble|thought balloon", r"(men|women)’s room|restroom", r"(derelict )?houses?( with garden)?",
    r"(oncoming )?(automobile|taxi|police car)", r"(oncoming )?bus", r".* traffic light",
    r".* chick", r".*camel", r"(guide|service) dog", r"(polar )?bear", r"(soft )?ice cream",
    r"(Japanese )?post office", r"(admission )?tickets?", r"fork and knife.*", r"(evergreen|Christmas) tree",
    r"railway car|mountain railway", r"ferry|passenger ship", r"bank|classical building", r"(person in )?bed",
    r"movie camera|film projector", r"(pensive|disappointed|relieved|smirking) face",
)  # fmt: skip
# Third, what has the same name but for these words: one person as a woman, as a man and as neither; one thing in
# several colours; an animal and its face.
DETAILS = re.compile(
    r"\b((wo)?m[ae]n|person|people|black|blue|brown|green|grey|orange|pink|purple|red|white|yellow|face)\b"
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clean(text: str) -> str:
    """Composed characters, single plain spaces, no zero-width space (in Thai it marks where a line may break)."""
    return " ".join(unicodedata.normalize("NFC", text).replace("\u200b", "").split())


def read_tar(path: Path, key: str, pattern: str) -> dict[str, bytes]:
    """The files of a package whose name matches, by the part of the name that is in parentheses."""
    data = check(path.read_bytes(), SHA256[key], path.name)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        matches = ((re.fullmatch(pattern, member.name), member) for member in archive)
        return {match[1]: archive.extractfile(member).read() for match, member in matches if match}


def picture(png: bytes) -> np.ndarray:
    """On white and then smaller: the other order would leave dark rims where the original is transparent."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB").resize((SIZE, SIZE), Image.LANCZOS))


def captions(cldr: dict[str, bytes], characters: list[str]) -> tuple[dict, dict]:
    """names[language][i] and keywords[language][i] of characters[i]; None and () where CLDR has nothing."""
    names, keywords = {}, {}
    for language in LANGUAGES:
        table = json.loads(cldr[language])["annotations"]["annotations"]
        rows = [table.get(character, {}) for character in characters]
        names[language] = [clean(row["tts"][0]) if row.get("tts") else None for row in rows]
        keywords[language] = [tuple(dict.fromkeys(map(clean, row.get("default", ())))) for row in rows]
    return names, keywords


def choose_keywords(names: list[str], keywords: list[tuple[str, ...]]) -> list[list[str]]:
    """Of each emoji's keywords the ones that most emoji share, in CLDR's order: they can be learned from others.

    The name itself and unwanted words are no keywords.
    """
    wanted = [
        [word for word in words if word.lower() != name.lower() and not UNWANTED_KEYWORD.fullmatch(word.lower())]
        for name, words in zip(names, keywords, strict=True)
    ]
    count = Counter(word for words in wanted for word in words)
    kept = [set(sorted(words, key=lambda word: (-count[word], word))[:KEYWORDS]) for words in wanted]
    return [[word for word in words if word in chosen] for words, chosen in zip(wanted, kept, strict=True)]


def near_duplicates(images: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of pictures that are nearly the same, also after a turn by a quarter or a mirroring."""
    ink = 1 - images.astype(np.float32) / 255  # so that the white around a small thing does not count as likeness
    flat = ink.reshape(len(ink), -1)
    norm = np.linalg.norm(flat, axis=1)
    alike = np.zeros((len(ink), len(ink)), bool)
    for turn in range(4):
        for other in (np.rot90(ink, turn, (1, 2)), np.rot90(ink, turn, (1, 2))[:, :, ::-1]):
            alike |= flat @ other.reshape(len(ink), -1).T >= ALIKE * norm[:, None] * norm
    return [(int(i), int(j)) for i, j in np.argwhere(alike) if i != j]


def families(names: dict[str, list[str]], subgroups: list[str], images: np.ndarray) -> list[list[int]]:
    """Groups the emoji that must stay in one split: by subgroup, name, person, caption in any language, and pixels."""
    root = list(range(len(images)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    first = {}
    for i, name in enumerate(names["en"]):
        # "woman: beard" -> "", the family of plain persons; "woman farmer" -> "farmer"; "black cat" -> "cat"
        base = clean(DETAILS.sub("", name.partition(":")[0]))
        keys = [("base", base)] + [("caption", language, names[language][i].lower()) for language in names]
        keys += [("subgroup", subgroups[i])] if SUBGROUPS.fullmatch(subgroups[i]) else []
        keys += [("named", pattern) for pattern in NAMED if re.fullmatch(pattern, name) or re.fullmatch(pattern, base)]
        for key in keys:
            root[find(i)] = find(first.setdefault(key, i))
    for i, j in near_duplicates(images):
        root[find(i)] = find(j)
    members = defaultdict(list)
    for i in range(len(images)):
        members[find(i)].append(i)
    return list(members.values())


def divide(groups: list[list[int]], ranks: list[str]) -> dict[str, list[int]]:
    """The families fill test, then valid, then train, in the order of a hash of their pictures' hashes.

    Were it the lowest of their hashes, large families would come early and fill the test split.
    """
    total = sum(map(len, groups))
    parts = {"train": [], "valid": [], "test": []}
    for group in sorted(groups, key=lambda group: sha256("".join(sorted(ranks[i] for i in group)).encode())):
        part = next((part for part, share in SHARES.items() if len(parts[part]) < share * total), "train")
        parts[part if len(group) <= LARGEST else "train"] += group
    return parts


def emoji(noto: Path, twemoji: Path, cldr: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of emoji.npz and the content of emoji_names.json.gz."""
    pngs = read_tar(noto, "noto", r"package/(emoji\.json|img/google/64/.*\.png)")
    other = read_tar(twemoji, "twemoji", r"package/img/twitter/64/(.*\.png)")
    cldr = read_tar(cldr, "cldr", r"package/annotations/(\w+)/annotations\.json")
    entries = [  # skin tones are inside their base emoji's entry; the names of flags are countries
        entry
        for entry in json.loads(pngs["emoji.json"])
        if entry["category"] not in ("Flags", "Component") and entry["image"] in other
    ]
    # CLDR leaves out U+FE0F, which asks for the coloured form of a character that has two.
    characters = ["".join(chr(int(c, 16)) for c in e["unified"].split("-") if c != "FE0F") for e in entries]
    names, keywords = captions(cldr, characters)
    pngs = [pngs[f"img/google/64/{entry['image']}"] for entry in entries]
    images = np.stack([picture(png) for png in pngs])
    taken, rows = set(), []
    for i, name in enumerate(names["en"]):
        named = all(names[language][i] for language in LANGUAGES)
        if named and not LEFT_OUT.fullmatch(name) and images[i].tobytes() not in taken:
            taken.add(images[i].tobytes())
            rows.append(i)
    entries, pngs, images = [entries[i] for i in rows], [pngs[i] for i in rows], images[rows]
    names = {language: [names[language][i] for i in rows] for language in LANGUAGES}
    keywords = {
        language: choose_keywords(names[language], [keywords[language][i] for i in rows]) for language in LANGUAGES
    }
    groups = families(names, [entry["subcategory"] for entry in entries], images)
    parts = divide(groups, [sha256(png) for png in pngs])
    codes = [entry["unified"] for entry in entries]
    for rows in parts.values():  # mixes the families, so that the first n are a fair subset
        rows.sort(key=lambda i: sha256(codes[i].encode()))
    arrays = {}
    for part, rows in parts.items():
        arrays |= {f"{part}_images": images[rows], f"{part}_codes": np.array([codes[i] for i in rows])}
    arrays["test_twemoji"] = np.stack([picture(other[entries[i]["image"]]) for i in parts["test"]])
    order = [i for rows in parts.values() for i in rows]
    return arrays, {
        "codes": [codes[i] for i in order],
        "names": {language: [names[language][i] for i in order] for language in LANGUAGES},
        "keywords": {language: [keywords[language][i] for i in order] for language in LANGUAGES},
    }


def indexed(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8[n, H, W, 3] -> each pixel's number in its picture's palette, the palettes one after the other, their sizes.

    The colours of a palette are in the order in which they first occur, which compresses best.
    """
    indices, palettes, sizes = np.zeros(images.shape[:-1], np.uint8), [], []
    for image, index in zip(images, indices, strict=True):
        colours, first, inverse = np.unique(image.reshape(-1, 3), axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(colours), np.uint8)
        rank[order] = np.arange(len(colours))
        index[:] = rank[inverse].reshape(index.shape)
        palettes.append(colours[order])
        sizes.append(len(colours))
    return indices, np.concatenate(palettes), np.array(sizes, np.uint8)


def easy_vqa(wheel: Path) -> dict[str, np.ndarray]:
    """The whole benchmark. Its questions are sorted by picture, so a count for each picture says whose they are."""
    check(wheel.read_bytes(), SHA256["easy_vqa"], wheel.name)
    arrays = {"answers": np.array(ANSWERS)}
    with zipfile.ZipFile(wheel) as archive:
        rows = {part: json.loads(archive.read(f"easy_vqa/data/{part}/questions.json")) for part in ("train", "test")}
        texts = sorted({question for part in rows.values() for question, _, _ in part})
        arrays["questions"] = np.array(texts)
        for part, questions in rows.items():
            pictures = [picture for _, _, picture in questions]
            assert pictures == sorted(pictures)
            names = [f"easy_vqa/data/{part}/images/{i}.png" for i in range(max(pictures) + 1)]
            images = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
            indices, palettes, sizes = indexed(images)
            arrays |= {
                f"{part}_pixels": indices,
                f"{part}_palettes": palettes,
                f"{part}_palette_sizes": sizes,
                f"{part}_questions": np.array([texts.index(question) for question, _, _ in questions], np.uint8),
                f"{part}_answers": np.array([ANSWERS.index(answer) for _, answer, _ in questions], np.uint8),
                f"{part}_counts": np.bincount(pictures).astype(np.uint8),
            }
    return arrays


def taxonomy(wordnet: Path, words: set[str]) -> dict[str, list[str]]:
    """The path of hypernyms from "entity" to the first sense of each of these words that WordNet has as a noun.

    A set of synonyms is named by the first of its words that is asked for and has this first sense, else by its first
    word. So the last name of a path is the word, or a synonym whose path is the same: "automobile" and "car". Where a
    set has several hypernyms, the first one counts. Paths with an unwanted word are left out.
    """
    index, data = (
        check((wordnet / name).read_bytes(), expected, name).decode().splitlines()
        for name, expected in (("index.noun", SHA256["index.noun"]), ("data.noun", WORDNET_SHA256["data.noun"]))
    )
    synsets = {line[:8]: line.partition("|")[0].split() for line in data if not line.startswith("  ")}
    # lemma, part of speech, number of senses, number of pointer kinds, the kinds, two numbers, the senses
    senses = {(row := line.split())[0]: row[6 + int(row[3])] for line in index if not line.startswith("  ")}

    def path(offset: str) -> list[str]:
        # Offset, kind, part of speech, number of words (hexadecimal), words with a number each; number of pointers,
        # pointers of four: symbol, offset of the target, two more.
        row = synsets[offset]
        start = 4 + 2 * int(row[3], 16)
        pointers = [row[i : i + 2] for i in range(start + 1, start + 1 + 4 * int(row[start]), 4)]
        above = next((target for symbol, target in pointers if symbol in ("@", "@i")), None)
        names = [name.replace("_", " ") for name in row[4:start:2]]
        lower = [name.lower() for name in names]
        asked = [name for name in lower if name in words and senses[name.replace(" ", "_")] == offset]
        return [*(path(above) if above else ()), (asked + names)[0]]

    found = {word: path(senses[key]) for word in sorted(words) if (key := word.replace(" ", "_")) in senses}
    return {word: names for word, names in found.items() if not UNWANTED.search(" ".join([word, *names]))}


def english_words(texts) -> set[str]:
    """The texts themselves, for "ice cream", and their words; without those that are a noun in a dictionary only."""
    texts = {text.lower() for text in texts}
    words = {word for text in texts for word in re.findall(r"[a-z]{2,}(?:-[a-z]+)*", text)}
    return {
        word
        for word in texts | words
        if not re.fullmatch(r"an|as|at|be|behind|by|do|he|in|it|m[ey]|o[nr]|so|us|who", word)
    }


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noto", type=Path, required=True, help="emoji-datasource-google 16.0.0, .tgz")
    parser.add_argument("--twemoji", type=Path, required=True, help="emoji-datasource-twitter 16.0.0, .tgz")
    parser.add_argument("--cldr", type=Path, required=True, help="cldr-annotations-full 48.2.0, .tgz")
    parser.add_argument("--easy-vqa", type=Path, required=True, help="the easy_vqa 1.0 wheel")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's index.noun and data.noun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    arrays, texts = emoji(args.noto, args.twemoji, args.cldr)
    write_npz(args.out / "emoji.npz", arrays)
    write_json(args.out / "emoji_names.json.gz", texts)
    write_npz(args.out / "easy_vqa.npz", easy_vqa(args.easy_vqa))
    english = [*texts["names"]["en"], *(word for words in texts["keywords"]["en"] for word in words), *ANSWERS]
    write_json(args.out / "taxonomy.json.gz", taxonomy(args.wordnet, english_words(english)))
    write_checksums(args.out)
    print((args.out / "checksums.txt").read_text(), end="")


if __name__ == "__main__":
    main()
