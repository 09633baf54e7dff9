"""What plots of the results page read is what its tables say."""
from __future__ import annotations

from sticker_world.results.page import Table, grouped, percent, share_in, share_of


def test_a_share_is_read_as_it_was_written():
    share = share_of([True, True, False])
    assert all(abs(read - meant) < 0.0006 for read, meant in zip(share_in(percent(share)), share, strict=True))


def test_rows_are_grouped_by_the_start_of_their_names():
    rows = [["cfg 1, plain", "10.0 [5.0, 20.0]"], ["cfg 1, A&E, 5", "40.0 [30.0, 50.0]"],
            ["cfg 15, plain", "1.0 [0.0, 2.0]"], ["cfg 5, plain", "50.0 [40.0, 60.0]"]]
    table = Table(["inside", "share"], rows).titled()["inside"]
    assert grouped(table, ["cfg 1", "cfg 5"], "share") == {
        "plain": [(0.1, 0.05, 0.2), (0.5, 0.4, 0.6)], "A&E, 5": [(0.4, 0.3, 0.5), None],
    }
