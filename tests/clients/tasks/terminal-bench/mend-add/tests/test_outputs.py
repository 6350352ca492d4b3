import sys

sys.path.insert(0, "/testbed")


def test_add():
    from calc import add

    assert add(2, 3) == 5
