"""Reading a data set of the subnet's layout, through the real library and a small parquet file."""

from __future__ import annotations

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.data import hub


def jpeg(gray):
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), gray, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder, name, rows, image_type=None):
    struct = image_type or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    schema = {"image": struct, "label": pa.int64(), "scene_description": pa.string()}
    table = pa.table({key: pa.array(values, schema[key]) for key, values in columns.items()})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "data" / name)


def row(gray, label, **more):
    return {"image": {"bytes": jpeg(gray), "path": f"{gray}.jpg"}, "label": label, **more}


def test_a_folder_of_parquet_files_is_read_in_order_and_balanced(tmp_path):
    write(tmp_path, "train-00000.parquet", [row(i, int(i % 4 == 0)) for i in range(20)])
    write(tmp_path, "train-00001.parquet", [row(100 + i, 1) for i in range(3)])
    rows = hub.first_rows(str(tmp_path), per_label=6)
    assert [r.label for r in rows].count(0) == 6
    assert [r.label for r in rows].count(1) == 6
    assert rows[0] == hub.Row(jpeg(0), 1)
    assert rows[-1] == hub.Row(jpeg(100), 1)


def test_of_a_journal_export_the_table_with_pictures_is_read(tmp_path):
    write(tmp_path, "all.parquet", [{"label": 1, "scene_description": "of a request"}])
    (tmp_path / "data").rename(tmp_path / "requests")
    write(tmp_path, "labelled.parquet", [row(i, i % 2) for i in range(4)])
    (tmp_path / "data").rename(tmp_path / "pictures")
    assert len(hub.first_rows(str(tmp_path))) == 4


def test_rows_whose_description_contradicts_the_label_are_passed_over_as_validators_do(tmp_path):
    rows = [
        row(1, 1, scene_description="a crew digs"),
        row(2, 1, scene_description=""),
        row(3, 1, scene_description=None),
        row(4, 0, scene_description="cones on the road"),
        row(5, 0, scene_description=None),
        row(6, 0, scene_description=""),
    ]
    write(tmp_path, "train.parquet", rows)
    assert [r.image for r in hub.first_rows(str(tmp_path))] == [jpeg(1), jpeg(5), jpeg(6)]


def test_a_plain_column_of_bytes_is_read_too(tmp_path):
    write(tmp_path, "train.parquet", [{"image": jpeg(g), "label": g % 2} for g in (10, 11)], pa.binary())
    assert {r.label for r in hub.first_rows(str(tmp_path))} == {0, 1}


def test_rows_without_a_picture_or_with_another_label_are_passed_over(tmp_path):
    empty = {"image": {"bytes": None, "path": "x"}, "label": 1}
    write(tmp_path, "train.parquet", [empty, row(1, 2), row(2, 0), row(3, 1)])
    assert [r.image for r in hub.first_rows(str(tmp_path))] == [jpeg(2), jpeg(3)]


def test_only_so_many_rows_are_searched(tmp_path):
    write(tmp_path, "train.parquet", [row(i, 0) for i in range(5)] + [row(9, 1)])
    with pytest.raises(ValueError, match="both labels, got 0 of road work and 5 clear"):
        hub.first_rows(str(tmp_path), most_rows=5)


def test_other_columns_are_named(tmp_path):
    write(tmp_path, "train.parquet", [{"label": 1}])
    with pytest.raises(ValueError, match=r"image and label, got \['label'\]"):
        hub.first_rows(str(tmp_path))


def test_an_empty_folder_is_an_error_with_its_name(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        hub.first_rows(str(tmp_path))


def test_a_data_set_that_cannot_be_reached_is_an_error_with_its_name(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing"):
        hub.first_rows("nobody/nothing")


def test_without_the_library_the_command_to_install_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"-m pip install '.*\[hub\]'$"):
        hub.first_rows("owner/name")
