import pytest

from pilotlight_protocol.byte_sizes import parse_size, shown_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("7", 7), ("500M", 500 * 10**6), ("70Gi", 70 * 2**30), ("1.5GB", 1_500_000_000), (" 2KiB ", 2048), ("3kB", 3000)],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-1", "4X", "G", "1e9", "nan", "inf", "0.1", "4 GiB", "4Gi4"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


def test_sizes_as_people_read_them() -> None:
    assert [shown_size(size) for size in (999, 1500, 2.5e9, 7e13)] == ["999 B", "1.5 kB", "2.5 GB", "70.00 TB"]
