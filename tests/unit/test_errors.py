"""Messages of mistakes stay short, whatever they quote, and keep what is wrong and what to do."""

from moa.errors import HEAD, LINES, LISTED, LONGEST, TAIL, MoaError, listed, nearest, one_line


def test_a_list_of_names_ends() -> None:
    names = [f"n{i}" for i in range(LISTED)]
    assert listed(names) == ", ".join(names)
    assert listed([*names, "a", "b"]) == f"{', '.join(names)} and 2 more"
    assert listed(iter(["x" * 1_000, "y"])) == "x" * LONGEST + "..., y"
    assert listed([]) == ""


def test_the_nearest_of_many_names() -> None:
    many = [f"column {i}" for i in range(100_000)]
    assert nearest("colunm 5", many[:50]) == " Did you mean 'column 5'?"
    assert nearest("something else", many).endswith(" and 99980 more.")


def test_a_message_keeps_its_beginning_and_its_end() -> None:
    short = "x.yaml: key 'a' is wrong\nx.yaml: key 'b' is wrong; write it anew"
    assert str(MoaError(short)) == short
    long = str(MoaError(f"{short}\nx.yaml: the key {'k' * 100_000} is wrong; leave it out"))
    first, second, third = long.split("\n")
    assert f"{first}\n{second}" == short
    assert len(third) == HEAD + len(" ... ") + TAIL
    assert third.startswith("x.yaml: the key kkk") and third.endswith("kkk is wrong; leave it out")


def test_a_message_of_many_lines_ends() -> None:
    lines = [f"x.yaml: unknown key 'k{i}'" for i in range(50_000)]
    assert str(MoaError("\n".join(lines[:LINES]))).split("\n") == lines[:LINES]
    assert str(MoaError("\n".join(lines))).split("\n") == [*lines[: LINES - 1], "... and 49961 more lines"]


def test_what_a_library_says_is_one_line() -> None:
    assert one_line(OSError("Invalid data\n")) == "Invalid data"
    assert one_line(ValueError("1 error\n  a\n    is wrong")) == "1 error a is wrong"
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(ValueError("x" * 1_000)) == "x" * 300 + "..."
