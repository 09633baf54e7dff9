"""The arithmetic of the scripts that compare ways to make pictures."""
from __future__ import annotations

from sticker_world.attention_loss_claims import area_cells, area_of_first, areas, both_in_halves, mean_cell
from sticker_world.judge import Found, Verdict
from sticker_world.relatives_claims import factor_text
from sticker_world.scenes import SIDE
from sticker_world.ways import BOTH, Result, judged
from sticker_world.world import Outcome, Prompt

PROMPT = Prompt("animal-object", (("cat", None), ("balloon", "red")))
LEFT, RIGHT = (0, 0, 32, 64), (64, 0, 128, 64)


def outcome(cat=None, balloon=None, colour="red"):
    found = [Found("cat", None, 1.0, cat)] if cat else []
    found += [Found("balloon", colour, 1.0, balloon)] if balloon else []
    return Outcome(PROMPT, 0, Verdict(tuple(found), ()))


def test_factors_stand_behind_their_phrases():
    assert factor_text(PROMPT.text, (None, 1.5)) == "red balloon: 1.5"
    assert factor_text(PROMPT.text, (0.7, 1.5)) == "cat: 0.7, red balloon: 1.5"


def test_subjects_are_in_their_halves():
    assert both_in_halves(outcome(LEFT, RIGHT))
    assert not both_in_halves(outcome(RIGHT, LEFT))
    assert not both_in_halves(outcome(LEFT))


def test_an_area_is_that_of_the_first_subject():
    assert area_of_first(outcome(LEFT, RIGHT)) == 32 * 64
    assert area_of_first(outcome(balloon=RIGHT)) is None


def test_rows_compare_picture_by_picture():
    before = Result([outcome(LEFT), outcome(LEFT, RIGHT), outcome(LEFT, RIGHT, "blue")], 5.0, 1.0)
    after = Result([outcome(LEFT, RIGHT), outcome(RIGHT), outcome(LEFT, RIGHT)], 5.0, 1.0)
    (present, _, mended, *_), (_, share, coloured, *_) = judged(BOTH)(after, before)
    assert (present, mended) == ("both present", "1 / 1")
    assert share.startswith("2 of 3") and coloured == "2 / 1"
    assert [row[2:] for row in judged(BOTH)(before, before)] == [["-", "-", "-"]] * 2


def test_areas_are_of_the_pictures_that_have_the_subject_both_times():
    before = Result([outcome(LEFT), outcome(LEFT), outcome(LEFT), outcome(LEFT)], 5.0, 1.0)
    after = Result([outcome(RIGHT), outcome(RIGHT), outcome(LEFT), outcome(balloon=RIGHT)], 5.0, 1.0)
    *_, (title, mean, changed, difference, _) = areas(after, before)
    assert title == "area of the first, %"
    assert mean.startswith("20.8 [") and mean.endswith("in 3")
    assert changed == "2 larger / 0 smaller"
    assert difference.startswith("+8.3 [")


def test_a_way_does_not_differ_from_itself():
    assert area_cells([(SIDE**2 / 4, SIDE**2 / 4)] * 2) == ["25.0 [25.0, 25.0] in 2", "-", "-", "-"]


def test_the_interval_of_a_mean():
    assert mean_cell([1.0, 3.0]) == "2.0 [0.0, 4.0]"  # 1.96 times 1
    assert mean_cell([-1.0, -1.0], "+") == "-1.0 [-1.0, -1.0]"
