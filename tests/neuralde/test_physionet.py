"""PhysioNet 2012: the reader on records written here, and on the real ones where NEURALDE_PHYSIONET names their folder."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralde.commands.experiments.tasks.physionet import CHANNELS, DESCRIPTORS, gridded, physionet, read
from neuralde.data import DataError

FIRST = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Height,-1
00:00,Weight,-1
00:07,HR,70
00:25,HR,80
00:31,HR,100
00:40,Temp,36.5
47:59,Urine,200
48:00,Urine,100
"""
SECOND = """Time,Parameter,Value
00:00,RecordID,132540
00:00,Weight,76
10:30,HR,120
10:29,Temp,35
"""
NOTHING = """Time,Parameter,Value
00:00,RecordID,132541
00:00,Age,70
00:00,Weight,-1
"""


def written(folder, texts=(FIRST, SECOND, NOTHING)):
    for name, part in (("set-a", texts[:2]), ("set-b", texts[2:])):
        (folder / name).mkdir()
        for index, text in enumerate(part):
            (folder / name / f"{132539 + index}.txt").write_text(text)
    return folder


def test_records_become_hourly_means(tmp_path):
    records = read(written(tmp_path))
    assert records.patients == 3
    ts, data, mask = gridded(records)
    np.testing.assert_allclose(ts * 48, np.arange(49))
    assert data.shape == mask.shape == (2, 49, 37)  # the third has nothing but descriptors and an unknown weight
    place = {name: CHANNELS.index(name) for name in ("HR", "Temp", "Urine", "Weight")}
    expected = {
        (0, 0, "HR"): 75.0,
        (0, 1, "HR"): 100.0,
        (0, 1, "Temp"): 36.5,
        (0, 48, "Urine"): 150.0,
        (1, 0, "Weight"): 76.0,
        (1, 11, "HR"): 120.0,
        (1, 10, "Temp"): 35.0,
    }
    assert mask.sum() == len(expected)
    for (patient, hour, name), value in expected.items():
        assert mask[patient, hour, place[name]]
        assert data[patient, hour, place[name]] == value


def test_archives_and_packed_records_are_the_same(tmp_path):
    whole = read(written(tmp_path))
    archives, packed = tmp_path / "archives", tmp_path / "packed"
    archives.mkdir()
    packed.mkdir()
    for name in ("set-a", "set-b"):
        with tarfile.open(archives / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / name, name)
    names = [*DESCRIPTORS, *CHANNELS]
    columns = {"params": np.array(names)}
    for key, texts in (("a", (FIRST, SECOND)), ("b", (NOTHING,))):
        rows = [[line.split(",") for line in text.split()[1:] if "RecordID" not in line] for text in texts]
        flat = [row for part in rows for row in part]
        columns[f"{key}_ptr"] = np.cumsum([0, *map(len, rows)])
        columns[f"{key}_time_min"] = np.array([60 * int(t[:2]) + int(t[3:]) for t, _, _ in flat], dtype=np.uint16)
        columns[f"{key}_param"] = np.array([names.index(name) for _, name, _ in flat], dtype=np.uint8)
        columns[f"{key}_value"] = np.array([float(value) for *_, value in flat], dtype=np.float32)
    np.savez(packed / "records.npz", **columns)
    for other in (read(archives), read(packed)):
        for mine, theirs in zip(whole, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    del columns["b_value"]
    np.savez(packed / "records.npz", **columns)
    with pytest.raises(DataError, match="has no b_value"):
        read(packed)


def test_the_split_is_seeded_and_scaled_by_its_training_part(tmp_path):
    texts = [
        f"Time,Parameter,Value\n00:00,RecordID,{n}\n01:00,HR,{50 + 10 * n}\n02:00,GCS,15\n02:00,HR,60\n"
        for n in range(10)
    ]
    data = physionet(written(tmp_path, texts), torch.float64)
    assert data.train_x.shape == (8, 49, 37)
    assert data.test_x.shape == (2, 49, 37)
    assert data.train_x.dtype == torch.float64
    rate, coma = CHANNELS.index("HR"), CHANNELS.index("GCS")
    values = data.train_x[..., rate][data.train_mask[..., rate]]
    assert (values.min(), values.max()) == (0.0, 1.0)
    assert (data.train_x[..., coma] == 0).all()  # always 15: shifted, and not divided by its range of 0
    assert (data.train_x[~data.train_mask] == 0).all()
    again, other = physionet(tmp_path, torch.float64), physionet(tmp_path, torch.float64, split_seed=1)
    assert torch.equal(data.test_x, again.test_x)
    assert not torch.equal(data.test_x, other.test_x)
    few = physionet(tmp_path, torch.float32, train_size=3, test_size=1)
    assert torch.equal(few.train_x, data.train_x[:3].float())
    assert len(few.test_mask) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with .*; expected Time,Parameter,Value"),
        ("Zeit,Parameter,Value\n", "begins with .*Zeit"),
        ("Time,Parameter,Value\n00:00,Mood,3\n", "line 2: got '00:00,Mood,3'"),
        ("Time,Parameter,Value\n00:00,HR,fast\n", "line 2"),
        ("Time,Parameter,Value\n0,HR,60\n", "line 2"),
        ("Time,Parameter,Value\n00:00,HR\n", "line 2"),
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, (FIRST, text)))


def test_missing_data_say_so(tmp_path):
    with pytest.raises(DataError, match=r"not a folder.*physionet.org"):
        read(tmp_path / "nowhere")
    (tmp_path / "else.txt").write_text("")
    with pytest.raises(DataError, match=r"set-a not found, only else.txt; expected"):
        read(tmp_path)
    for name in ("set-a", "set-b"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="no records"):
        read(tmp_path)
    (tmp_path / "set-a").rmdir()
    (tmp_path / "set-a.tar.gz").write_bytes(io.BytesIO(b"no archive").read())
    with pytest.raises(DataError, match="cannot be read as an archive"):
        read(tmp_path)


def test_the_real_records():
    folder = os.environ.get("NEURALDE_PHYSIONET")
    if not folder:
        pytest.skip("NEURALDE_PHYSIONET names no folder")
    data = physionet(Path(folder), torch.float64)
    assert len(data.train_x) + len(data.test_x) > 7900
    values = data.train_x[data.train_mask]
    assert (values.min(), values.max()) == (0.0, 1.0)
    heart = data.train_mask[..., CHANNELS.index("HR")].double().mean()
    assert 0.7 < heart < 1.0  # measured about every hour
