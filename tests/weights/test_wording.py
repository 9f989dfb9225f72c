from eomt_jax.weights.wording import listed, reason, shown, typed_reason


def test_list_of_names_is_bounded_in_number_and_length():
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    text = listed([f"{i}" + 10_000 * "x" for i in range(1000)])
    assert len(text) < 12_000
    assert text.endswith(" and 950 more")


def test_value_of_a_file_is_bounded_whatever_its_type():
    assert shown(7) == "7"
    assert shown("gelu") == "'gelu'"
    values = (10**6 * "x", [[10**6 * "y"]] * 1000, {"a": list(range(10**5))})
    assert all(len(shown(value)) < 250 for value in values)


def test_reason_of_a_missing_key_names_it_and_not_the_exception():
    assert reason(KeyError("height")) == "'height' is missing"
    assert reason(ValueError("no classes\nat all")) == "no classes"
    assert reason(TypeError()) == "TypeError"


def test_typed_reason_has_the_first_line():
    assert typed_reason(OSError("\nno room\nat all")) == "OSError: no room"
