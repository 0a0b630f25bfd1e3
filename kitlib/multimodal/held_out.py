"""Held-out names for transfer between languages: which are taught with pictures, and which by text alone.

    languages_with_pictures("1F415")     # a dog: all languages whose name for it is shown with pictures of dogs
    by_text_alone("1F415", "fr")         # whether the French name is only ever taught by translation

Half of the sixteen languages are taught every name with pictures. In the other half, a quarter of the objects are named
in texts alone ("what is dog?", answered in French): no picture of such an object ever comes with its name in that
language, neither as an answer nor in a prompt (but for a gap in the words of exemplars, which
`example_builders.exemplars` describes). To name it from a picture, what the model sees and what it reads must
have met. Which quarter depends on the object's code and the language, so it differs from language to language.
"""

import hashlib

from kitlib.data.captioned import LANGUAGES
from kitlib.multimodal.prompts import CODES

BY_TEXT = ("fr", "pt", "it", "el", "tr", "hi", "ko", "vi")  # half of the languages, half of the scripts
ONE_IN = 4  # objects per such language


def by_text_alone(code: str, language: str) -> bool:
    """Whether the object with this Unicode code, as in `captioned.Emoji.codes`, has no picture with its name in this
    language. Raises ValueError for an unknown language."""
    digest = hashlib.sha256(f"{code} {CODES[language]}".encode()).hexdigest()
    return language in BY_TEXT and int(digest, 16) % ONE_IN == 0


def languages_with_pictures(code: str) -> tuple[str, ...]:
    """The languages in which this object is named with pictures: 8 to 16 of them."""
    return tuple(language for language in LANGUAGES if not by_text_alone(code, language))
