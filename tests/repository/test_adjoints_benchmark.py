"""The benchmark of adjoints: clipped ones are no longer than exact ones where nothing is clipped, and are told."""

import pytest

from benchmarks.adjoints import main

FEW = ["general-no-teleport", "--batches=2", "--tasks=2", "--begin=3", "--windows", "2", "--clips", "1e9", "1e-6"]


def test_its_table(capsys):
    main(FEW)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 ")]
    exact, loose, tight = (line[2:] for line in lines)
    assert exact == loose, "nothing to clip"
    assert float(tight[0]) < 0.1 * float(exact[0])
    assert [line[1] for line in lines] == ["exact", "clipped at 1e+09", "clipped at 1e-06"]


def test_a_checkpoint_that_there_is_not():
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main(["nowhere"])
