"""Progress in stages is one whole that never goes back."""

from steelman.progress import Stages, between, counted, silent


def test_stages_share_one_whole_and_never_go_back() -> None:
    told: list[tuple[int, int, str]] = []
    stages = Stages(lambda *words: told.append(words), 4)
    first, second = stages.stage("train"), stages.stage("tune", weight=3)
    first(1, 2, "half")
    first(2, 2, "all")
    first(0, 5, "again")  # a second loop inside the stage
    second(1, 3, "a third")
    second(3, 3, "all")
    shares = [done / total for done, total, _ in told]
    assert shares == [0.125, 0.25, 0.25, 0.5, 1.0]
    assert told[-1][2] == "tune: all"


def test_silence_says_nothing(capsys) -> None:
    silent(1, 2, "words")
    assert capsys.readouterr() == ("", "")


def test_a_stage_without_pieces_is_no_division_by_zero() -> None:
    told: list[int] = []
    Stages(lambda done, total, words: told.append(done), 1).stage("empty")(0, 0, "nothing")
    assert told == [0]


def test_work_inside_a_whole_is_told_with_what_it_says_of_itself() -> None:
    told: list[tuple[int, int, str]] = []
    inner = between(lambda *words: told.append(words), 20, 60, 100, "PGD()")
    assert list(counted(inner, 4, first=1)) == [1, 2, 3, 4]
    inner(1, 1, "done")
    inner(0, 2, "")  # a second loop does not go back
    assert told.pop() == (60, 100, "PGD()")
    assert told == [(20 + 10 * i, 100, "PGD()") for i in range(4)] + [(60, 100, "PGD(): done")]
