import pytest

from kitlib.configs.arguments import one_of


def test_known_names_pass():
    for known in (("top_k", "soft"), {"top_k": 1, "soft": 2}, iter(["top_k", "soft"])):  # any iterable
        assert one_of("router", "soft", known) is None
    assert one_of("layer", 2, (1, 2)) is None  # names need not be strings


@pytest.mark.parametrize(
    ("got", "known", "text"),
    [
        ("topk", ("soft", "top_k"), "Unknown router 'topk'; did you mean 'top_k'? Known: soft, top_k."),
        ("zzz", ("float32", "bfloat16"), "Unknown router 'zzz'. Known: float32, bfloat16."),  # like no other
        ("dense", (), "Unknown router 'dense'. Known: none."),
        (16, ("top_k", "soft"), "Unknown router 16. Known: top_k, soft."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_names(got, known, text):
    for error in (ValueError, SystemExit):  # the caller chooses
        with pytest.raises(error) as refused:
            one_of("router", got, known, error)
        assert str(refused.value) == text
