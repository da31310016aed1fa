import os
from pathlib import Path

import pytest

from rag.operators.indexing.walk import Skipped, SourceFile, Unreadable, WalkSettings, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.txt",
        "a.md",
        "docs/x.md",
        "docs/deep/y.md",
        "docs/deep/y.py",
        "drafts/z.md",
        ".hidden/h.md",
        ".env",
        ".git/config",
        "node_modules/m.js",
        "pkg/__pycache__/c.py",
        "venv/pyvenv.cfg",
        "venv/lib.py",
        "logo.png",
        "Ünï/日本.txt",
    ):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "root"


def names(root: Path, **settings: object) -> list[str]:
    found = walk(root, WalkSettings.model_validate(settings))
    return [item.path.relative_to(root).as_posix() for item in found if isinstance(item, SourceFile)]


def test_files_in_order_without_clutter(tree: Path) -> None:
    assert names(tree) == [
        "a.md",
        "b.txt",
        "docs/x.md",
        "docs/deep/y.md",
        "docs/deep/y.py",
        "drafts/z.md",
        "Ünï/日本.txt",
    ]
    assert [item.suffix for item in walk(tree) if isinstance(item, Skipped)] == [".png"]
    assert ".hidden/h.md" in names(tree, hidden=True)
    assert not any(name.startswith(".git/") for name in names(tree, hidden=True))


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.md"], [], ["a.md", "docs/x.md", "docs/deep/y.md", "drafts/z.md"]),
        (["docs/*.md"], [], ["docs/x.md"]),
        (["docs/**/*.md"], [], ["docs/x.md", "docs/deep/y.md"]),
        (["docs/"], [], ["docs/x.md", "docs/deep/y.md", "docs/deep/y.py"]),
        (["/?.md"], [], ["a.md"]),
        (["*.md"], ["drafts", "deep/"], ["a.md", "docs/x.md"]),
        (["*.md"], ["/docs"], ["a.md", "drafts/z.md"]),
        (["*.txt"], ["b.*"], ["Ünï/日本.txt"]),
        (["nothing"], [], []),
    ],
)
def test_patterns_are_those_of_gitignore(
    tree: Path, include: list[str], exclude: list[str], expected: list[str]
) -> None:
    assert names(tree, include=include, exclude=exclude) == expected


def test_links(tree: Path) -> None:
    (tree / "inside.md").symlink_to(tree / "a.md")
    (tree / "folder").symlink_to(tree / "docs")
    (tree / "outside.md").symlink_to(tree.parent / "secret.md")
    (tree.parent / "secret.md").write_text("secret")
    (tree / "away").symlink_to(tree.parent)
    (tree / "broken.md").symlink_to(tree / "gone.md")
    (tree / "circle").symlink_to(tree / "circle")
    problems = {i.path.name: i.reason for i in walk(tree) if isinstance(i, Unreadable)}
    assert problems == {
        "outside.md": "link that leaves the indexed folder",
        "away": "link that leaves the indexed folder",
        "broken.md": "broken link",
        "circle": "broken link",
    }
    assert "inside.md" in names(tree)
    assert not any(name.startswith(("folder/", "away/")) for name in names(tree))


def test_a_folder_that_cannot_be_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "docs":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [i for i in walk(tree) if isinstance(i, Unreadable)] == [Unreadable(tree / "docs", "permission denied")]
    assert "drafts/z.md" in names(tree)


def test_what_is_no_regular_file(tree: Path) -> None:
    os.mkfifo(tree / "pipe.txt")
    assert Unreadable(tree / "pipe.txt", "not a regular file") in list(walk(tree))


def test_a_single_file_and_an_empty_folder(tree: Path, tmp_path: Path) -> None:
    (only,) = walk(tree / "a.md")
    assert isinstance(only, SourceFile)
    assert only.size == 1
    (tmp_path / "empty").mkdir()
    assert list(walk(tmp_path / "empty")) == []
    assert names(tree, include=["*.md"]) != [
        i.path.name for i in walk(tree, leave_out=[tree / "docs"]) if isinstance(i, SourceFile)
    ]
    assert not any("docs" in i.path.parts for i in walk(tree, leave_out=[tree / "docs"]) if isinstance(i, SourceFile))
