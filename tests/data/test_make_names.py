"""data/make_names.py, the script that made names.txt.gz: which names are taken."""

import json


def test_latin_names_only(make_names):
    assert make_names.latin("bär") and make_names.latin("paru-paru") and make_names.latin("chef d’orchestre")
    assert not make_names.latin("собака") and not make_names.latin("2 dogs") and not make_names.latin("-x")


def test_entries_without_a_name_are_left_out(make_names):
    entries = {"a": {"tts": ["dog"]}, "b": {"default": ["x"]}, "c": {"tts": []}}
    content = json.dumps({"annotations": {"annotations": entries}}).encode()
    assert list(make_names.rows_of(content)) == ["a"]
    assert make_names.rows_of(b'{"annotations": {}}') == {}
