import pytest

from kitlib.configs.nearest_name import one_of


def test_known_names_pass():
    assert one_of("router", "soft", ("top_k", "soft")) is None
    assert one_of("router", "soft", {"top_k": 1, "soft": 2}) is None
    assert one_of("router", "soft", iter(["top_k", "soft"])) is None  # any iterable
    assert one_of("layer", 2, (1, 2)) is None  # names need not be strings


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_names():
    with pytest.raises(ValueError) as error:
        one_of("router", "topk", ("soft", "top_k", "expert_choice"))
    assert str(error.value) == "Unknown router 'topk'; did you mean 'top_k'? Known: soft, top_k, expert_choice."


def test_a_name_like_no_other_has_no_nearest_one():
    with pytest.raises(ValueError) as error:
        one_of("dtype", "zzz", ("float32", "bfloat16"))
    assert str(error.value) == "Unknown dtype 'zzz'. Known: float32, bfloat16."


def test_without_known_names_none_is_suggested():
    with pytest.raises(ValueError, match="Unknown arm 'dense'") as error:
        one_of("arm", "dense", ())
    assert str(error.value) == "Unknown arm 'dense'. Known: none."


@pytest.mark.parametrize("got", [None, 16, b"soft", ("soft",)])
def test_a_name_of_another_type_is_unknown(got):
    with pytest.raises(ValueError) as error:
        one_of("router", got, ("top_k", "soft"))
    assert str(error.value).startswith(f"Unknown router {got!r}")
    assert str(error.value).endswith(" Known: top_k, soft.")


@pytest.mark.parametrize("error", [SystemExit, KeyError, TypeError])
def test_the_caller_chooses_the_class_of_the_error(error):
    with pytest.raises(error, match="Unknown notebook '7'; did you mean '07'"):
        one_of("notebook", "7", ["07", "12"], error)
