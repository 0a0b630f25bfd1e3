"""Makes the committed file of emoji in other styles, for the things that captions name, from four public packages.

    npm pack @lobehub/fluent-emoji-flat@1.1.0 @lobehub/fluent-emoji-3d@1.1.0 @iconify-json/noto-v1@1.2.5 \\
        emoji-datasource-twitter@16.0.0
    pip install resvg-py==0.5.0
    python data/make_styles.py --flat lobehub-fluent-emoji-flat-1.1.0.tgz --solid lobehub-fluent-emoji-3d-1.1.0.tgz \\
        --noto-v1 iconify-json-noto-v1-1.2.5.tgz --twemoji emoji-datasource-twitter-16.0.0.tgz

writes `emoji_styles.npz` beside this script (or into `--out`), and then `checksums.txt`. It needs `emoji.npz`, whose
training emoji it draws again. The inputs are checked by sha256 first. A picture has at most 64 colours, which the eye
does not notice at 32 pixels and which makes the file three times smaller.
"""

import argparse
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import resvg_py
from make_data import write_checksums, write_npz
from make_pictures import SHA256, indexed, picture, read_tar
from PIL import Image

from kitlib.data import captioned
from kitlib.multimodal.kit_data import object_rows

SHA256 |= {
    "flat": "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147",
    "solid": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "noto_v1": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
}
COLOURS = 64


def plain(code: str) -> str:
    """ "1F415-200D-1F9BA", "0023-FE0F-20E3" -> the code points in small letters, without U+FE0F and leading zeros."""
    return "-".join(part.lower().lstrip("0") for part in code.split("-") if part.upper() != "FE0F")


def slugs(code: str, name: str) -> set[str]:
    """What Noto's first version may call an emoji: its name in English, or that of its character, in Unicode."""
    points = [int(part, 16) for part in code.split("-") if part != "FE0F"]
    names = [name] + ([unicodedata.name(chr(points[0]), "")] if len(points) == 1 else [])
    bare = (unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower() for text in names)
    return {re.sub(r"[^a-z0-9]+", "-", text).strip("-") for text in bare} - {""}


def drawn(svg: str) -> bytes:
    """A PNG of 64 x 64 pixels."""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=64, height=64))


def fewer_colours(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB"))


def by_code(package: Path, key: str, ending: str) -> dict[str, bytes]:
    files = read_tar(package, key, rf"package/(?:assets|img/twitter/64)/(.*)\.{ending}")
    return {plain(name): content for name, content in files.items()}


def noto_v1(package: Path, codes: list[str], names: list[str]) -> dict[str, bytes]:
    icons = json.loads(read_tar(package, "noto_v1", r"package/(icons\.json)")["icons.json"])
    width, height = icons.get("width", 16), icons.get("height", 16)
    parents = {alias: entry["parent"] for alias, entry in icons.get("aliases", {}).items()}
    found = {}
    for code, name in zip(codes, names, strict=True):
        for slug in sorted(slugs(code, name)):
            icon = icons["icons"].get(parents.get(slug, slug))
            if icon:
                w, h = icon.get("width", width), icon.get("height", height)
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{icon["body"]}</svg>'
                found[plain(code)] = drawn(svg)
                break
    return found


def styles(flat: Path, solid: Path, first: Path, twemoji: Path) -> dict[str, np.ndarray]:
    """The arrays of the file: codes, and per style the rows of its pictures in them and the pictures, as indices."""
    source, rows = captioned.emoji("train"), object_rows("train")
    codes = [source.codes[row] for row in rows]
    names = [source.names["en"][row] for row in rows]
    wanted = set(map(plain, codes))
    pictures = {
        "flat": {code: drawn(svg.decode()) for code, svg in by_code(flat, "flat", "svg").items() if code in wanted},
        "solid": by_code(solid, "solid", "webp"),
        "noto_v1": noto_v1(first, codes, names),
        "twemoji": by_code(twemoji, "twemoji", "png"),
    }
    arrays = {"codes": np.array(codes)}
    for style, found in pictures.items():
        known = [i for i, code in enumerate(codes) if plain(code) in found]
        images = np.stack([fewer_colours(picture(found[plain(codes[i])])) for i in known])
        pixels, palettes, sizes = indexed(images)
        arrays |= {f"{style}_rows": np.array(known, np.int16), f"{style}_pixels": pixels}
        arrays |= {f"{style}_palettes": palettes, f"{style}_palette_sizes": sizes}
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flat", type=Path, required=True, help="@lobehub/fluent-emoji-flat 1.1.0, .tgz")
    parser.add_argument("--solid", type=Path, required=True, help="@lobehub/fluent-emoji-3d 1.1.0, .tgz")
    parser.add_argument("--noto-v1", type=Path, required=True, help="@iconify-json/noto-v1 1.2.5, .tgz")
    parser.add_argument("--twemoji", type=Path, required=True, help="emoji-datasource-twitter 16.0.0, .tgz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    arrays = styles(args.flat, args.solid, args.noto_v1, args.twemoji)
    write_npz(args.out / "emoji_styles.npz", arrays)
    write_checksums(args.out)
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
