"""A folder of labelled pictures is read the same way at any depth."""

from __future__ import annotations

import pytest

from models.data.labelled import Labelled, read_folder


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_label_and_source_come_from_the_folders_above_the_picture(tmp_path):
    make(tmp_path, "berlin/roadwork/a.jpg", "berlin/clear/b.jpeg", "deep/er/delft/clear/c.PNG")
    assert read_folder(tmp_path) == [
        Labelled(tmp_path / "berlin/clear/b.jpeg", 0, "berlin", "berlin"),
        Labelled(tmp_path / "berlin/roadwork/a.jpg", 1, "berlin", "berlin"),
        Labelled(tmp_path / "deep/er/delft/clear/c.PNG", 0, "delft", "delft"),
    ]


def test_without_a_folder_between_them_the_roots_name_is_the_source(tmp_path):
    make(tmp_path / "mine", "roadwork/a.jpg")
    assert [p.source for p in read_folder(tmp_path / "mine")] == ["mine"]


def test_a_label_folder_itself_can_be_read(tmp_path):
    make(tmp_path, "mine/clear/a.jpg")
    assert read_folder(tmp_path / "mine" / "clear") == [Labelled(tmp_path / "mine/clear/a.jpg", 0, "mine", "mine")]


def test_other_files_and_folders_are_passed_over(tmp_path):
    make(tmp_path, "x/clear/a.jpg", "x/clear/notes.txt", "x/objects/cone.jpg", "x/clear/thumbs/a.jpg", "x/b.jpg")
    assert [p.path.name for p in read_folder(tmp_path)] == ["a.jpg"]


def test_the_manifest_names_groups_where_it_knows_them(tmp_path):
    make(tmp_path, "x/clear/a.jpg", "x/clear/b.jpg", "x/clear/c.jpg")
    (tmp_path / "manifest.csv").write_text("path,label,group\nx/clear/a.jpg,clear,boston\nx/clear/c.jpg,clear,\n")
    assert [p.group for p in read_folder(tmp_path)] == ["boston", "x", "x"]


def test_a_manifest_without_its_columns_is_named(tmp_path):
    make(tmp_path, "x/clear/a.jpg")
    (tmp_path / "manifest.csv").write_text("file,group\n")
    with pytest.raises(ValueError, match="path"):
        read_folder(tmp_path)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"roadwork/\*\.jpg"):
        read_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        read_folder(tmp_path / "nowhere")
