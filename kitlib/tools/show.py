"""`kit show`: your own pictures, and what the kit's PaLI-X says about them, as one HTML page."""

from pathlib import Path

from kitlib.data import files
from kitlib.multimodal import showcase, stages
from kitlib.tools import html_table

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>kitlib: what the small PaLI-X sees</title>
<style>body {{ font-family: sans-serif; }} td, th {{ padding: 0.3em 0.8em; text-align: start; }}</style></head>
<body><h1>What the small PaLI-X sees</h1>
<p>Frames: where it sees what it calls the thing in English. It was trained on drawings of 417 things.</p>
{table}</body></html>
"""


def main(paths: tuple[str, ...], question: str = "", out: Path = Path("build/show.html")) -> int:
    """Writes the page for these pictures, and prints a line each. A bad file or question ends it with a sentence."""
    if not paths:
        raise SystemExit("kit show: which pictures? Name one or more files.")
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise SystemExit(f"kit show: the page cannot be {out}; give --out a name that ends in .html.")
    try:
        model, params = stages.released()
        side = model.config.tower.image_size[0]
        images = [showcase.read_picture(path, side) for path in paths]
        seen = [showcase.ask_about(model, params, image, question=question) for image in images]
    except (OSError, ValueError) as error:
        raise SystemExit(f"kit show: {error}") from None
    for path, one in zip(paths, seen, strict=True):
        said = [one.captions["en"], f"boxes: {len(one.boxes)}", f"how many: {one.count}"]
        print(f"{path}: {', '.join(said + [f'{question} {one.answer}'] * bool(question))}")
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out, PAGE.format(table=page_table(seen).text))
    print(f"wrote {out}")
    return 0


def page_table(seen: list[showcase.Seen]) -> html_table.Html:
    """All that was said, a column per picture; a notebook displays it, too."""
    captions = {language: [one.captions[language] for one in seen] for language in seen[0].captions}
    more = {"how many?": [one.count for one in seen]}
    if seen[0].question:
        more[f"your question: {seen[0].question}"] = [one.answer for one in seen]
    return html_table.table([showcase.with_boxes(one) for one in seen], captions, more=more, side=160)
