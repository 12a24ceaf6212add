# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from custom.utils.errors import SettingError
from custom.utils.files import write_csv
from custom.utils.json_files import read_json, read_table, read_text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2", r"plan: .*x\.json is not valid JSON .*; correct it\."),
        (b"\xff\xfe[\x00", r"plan: .*x\.json is not in UTF-8 \(byte 0\); save it as UTF-8\."),
        (b"[" * 100_000, r"plan: .*x\.json is nested too deeply"),
        (b'{"a": 1}', r"plan: .*x\.json holds a dict, not a list"),
        (b"null", r"plan: .*x\.json holds null, not a list"),
        (b'[{"a": 1, "a": 2}]', r"the key 'a' is there twice"),
        (b"[" + b"9" * 5000 + b"]", r"plan: .*x\.json is not valid JSON"),
    ],
)
def test_what_is_wrong_with_json_is_said(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SettingError, match=message):
        read_json(tmp_path / "x.json", "plan", list)


def test_a_text_is_read_with_a_byte_order_mark_or_without(tmp_path):
    for content in ("é\n".encode(), "\ufeffé\n".encode()):
        (tmp_path / "x.txt").write_bytes(content)
        assert read_text(tmp_path / "x.txt", "split_dir") == "é\n"
    with pytest.raises(SettingError, match=r"split_dir: .*none\.txt is missing"):
        read_text(tmp_path / "none.txt", "split_dir")
    with pytest.raises(SettingError, match="split_dir: .* cannot be read .Is a directory.; correct it"):
        read_text(tmp_path, "split_dir")


def test_a_table_comes_back_and_a_damaged_one_is_named(tmp_path):
    file = tmp_path / "x.csv"
    rows = [{"patient": "=1+1", "rank": 1}, {"patient": "b, c", "rank": 2}]
    write_csv(file, rows)
    assert read_table(file, "selection", ("patient", "rank")) == [{**row, "rank": str(row["rank"])} for row in rows]
    for content, message in (
        ("patient,rank\na\n", r"x\.csv has no rank in row 1; correct it"),
        ("name,rank\na,1\n", r"x\.csv has no patient in row 1"),
        ("patient,rank\na\r\r,1\n", r"x\.csv is not a CSV table|has no rank in row"),
    ):
        file.write_text(content)
        with pytest.raises(SettingError, match=message):
            read_table(file, "selection", ("patient", "rank"))
