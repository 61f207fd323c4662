"""Scans in every layout are found, counted and described alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from dada.chunk_index import BSLZ4, HDF5, LZ4, RAW
from dada.errors import DataError
from dada.scan import Scan, open_scan
from tests.harness import scans

DATA = scans.frames(23)


def opened(path: Path | str, **options: object) -> Scan:
    return open_scan(path, **options)  # type: ignore[arg-type]


def test_a_legacy_master_with_links_to_data_files(tmp_path: Path) -> None:
    scan = opened(scans.legacy(tmp_path, DATA))
    assert (scan.n_frames, scan.shape, scan.dtype) == (23, scans.SHAPE, np.dtype("uint16"))
    assert [(s.path.name, s.first, s.count) for s in scan.segments] == [
        ("scan_data_000001.h5", 0, 10),
        ("scan_data_000002.h5", 10, 10),
        ("scan_data_000003.h5", 20, 3),
    ]
    assert scan.where(20) == (tmp_path / "scan_data_000003.h5", "/entry/data/data", 0)
    assert all(s.table and s.table.codec == BSLZ4 for s in scan.segments)


def test_what_the_master_says_about_the_detector(tmp_path: Path) -> None:
    detector = opened(scans.legacy(tmp_path, DATA)).detector
    np.testing.assert_array_equal(detector.pixel_mask, scans.pixel_mask())
    assert detector.saturation == 60_000
    assert detector.distance_m == 2.0
    assert detector.wavelength_nm == pytest.approx(0.1)
    assert detector.pixel_size_m == (75e-6, 75e-6)
    assert detector.beam_centre == (33.0, 26.0)  # the file counts from the corner of the first pixel
    assert detector.description == "test detector"


def test_a_data_file_alone_takes_the_detector_from_the_master_beside_it(tmp_path: Path) -> None:
    scans.legacy(tmp_path, DATA)
    scan = opened(tmp_path / "scan_data_000003.h5")
    assert scan.n_frames == 3
    assert scan.detector.saturation == 60_000


def test_a_named_dataset(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "other.h5", DATA, "/here/they/are")
    assert opened(f"{path}::/here/they/are").n_frames == 23
    assert opened(path).segments[0].dataset == "/here/they/are"  # the only stack there is
    with pytest.raises(DataError, match="has no dataset /nowhere"):
        opened(f"{path}::/nowhere")


def test_a_dataset_that_holds_no_frames(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "other.h5", DATA)
    with h5py.File(path, "a") as file:
        file["numbers"] = np.arange(3.0)
    for name in ("/numbers", "/entry"):
        with pytest.raises(DataError, match="holds no frames"):
            opened(f"{path}::{name}")


def test_one_frame_of_two_dimensions(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "one.h5", DATA[0])
    assert opened(path).n_frames == 1


def test_a_virtual_dataset_is_taken_apart_into_its_files(tmp_path: Path) -> None:
    scan = opened(scans.virtual(tmp_path, DATA, 9))
    assert [(s.path.name, s.dataset, s.first, s.count) for s in scan.segments] == [
        ("part_0.h5", "/data", 0, 9),
        ("part_1.h5", "/data", 9, 9),
        ("part_2.h5", "/data", 18, 5),
    ]


def test_a_virtual_dataset_of_parts_of_files(tmp_path: Path) -> None:
    source = scans.stack(tmp_path / "source.h5", DATA, "/data")
    layout = h5py.VirtualLayout((6, *scans.SHAPE), "uint16")
    whole = h5py.VirtualSource(source.name, "/data", DATA.shape)
    layout[:4] = whole[10:14]
    layout[4:] = whole[2:4]
    path = tmp_path / "virtual.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
    assert [(s.start, s.count) for s in opened(path).segments] == [(10, 4), (2, 2)]


def test_an_interleaved_virtual_dataset_is_read_through_hdf5(tmp_path: Path) -> None:
    source = scans.stack(tmp_path / "source.h5", DATA, "/data")
    layout = h5py.VirtualLayout((10, *scans.SHAPE), "uint16")
    whole = h5py.VirtualSource(source.name, "/data", DATA.shape)
    layout[::2] = whole[:5]
    layout[1::2] = whole[10:15]
    path = tmp_path / "virtual.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
    (segment,) = opened(path).segments
    assert segment.table is not None
    assert (segment.path, segment.count, segment.table.codec) == (path, 10, HDF5)
    source.unlink()
    with pytest.raises(DataError, match=r"source\.h5.*is missing"):  # HDF5 itself would give fill values
        opened(path)


def test_four_dimensions_with_channels(tmp_path: Path) -> None:
    data = np.stack([DATA, DATA[::-1]], axis=1)
    path = scans.stack(tmp_path / "four.h5", data)
    for channel in (0, 1):
        scan = opened(path, channel=channel)
        assert (scan.n_frames, scan.shape, scan.channel) == (23, scans.SHAPE, channel)
    with pytest.raises(DataError, match=r"2 channels.*--channel 2"):
        opened(path, channel=2)


def test_the_mask_of_a_channel(tmp_path: Path) -> None:
    path = scans.stack(tmp_path / "four.h5", np.stack([DATA, DATA], axis=1))
    with h5py.File(path, "a") as file:
        for number in (1, 2):
            mask = np.full(scans.SHAPE, number, dtype=np.uint32)
            file[f"/entry/instrument/detector/threshold_{number}_channel/pixel_mask"] = mask
    assert opened(path, channel=1).detector.pixel_mask[0, 0] == 2


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        ({"chunks": (1, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")}, BSLZ4),
        ({"chunks": (1, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="zstd")}, HDF5),
        ({"chunks": (1, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="none")}, HDF5),
        ({"chunks": (1, *scans.SHAPE), **hdf5plugin.LZ4()}, LZ4),
        ({"chunks": (1, *scans.SHAPE)}, RAW),
        ({"chunks": (1, *scans.SHAPE), "compression": "gzip"}, HDF5),
        ({"chunks": (2, *scans.SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")}, HDF5),
        ({"chunks": (1, 67, 10), **hdf5plugin.Bitshuffle(cname="lz4")}, HDF5),
        ({"chunks": None, "compression": None}, RAW),
    ],
)
def test_how_frames_are_stored(tmp_path: Path, options: dict[str, object], codec: str) -> None:
    table = opened(scans.stack(tmp_path / "scan.h5", DATA, **options)).segments[0].table
    assert table is not None
    assert table.codec == codec


def test_a_missing_data_file_is_named_with_its_frames(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, DATA)
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(DataError, match=r"scan_data_000002\.h5.*frames 10\.\.19"):
        opened(master)
    scan = opened(master, missing_ok=True)
    assert scan.n_frames == 23
    assert scan.segments[1].table is None
    assert "scan_data_000002.h5" in scan.segments[1].reason


def test_the_last_data_files_are_not_there_yet(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, DATA)
    (tmp_path / "scan_data_000003.h5").unlink()
    assert opened(master, missing_ok=True).n_frames == 20
    for file in tmp_path.glob("scan_data_*"):
        file.unlink()
    with pytest.raises(DataError, match="not one data file"):
        opened(master, missing_ok=True)


def test_a_scan_moved_away_from_its_absolute_links(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path / "old", DATA)
    with h5py.File(master, "a") as file:
        for name in list(file["/entry/data"]):
            target = file["/entry/data"].get(name, getlink=True)
            del file["/entry/data"][name]
            file["/entry/data"][name] = h5py.ExternalLink(str(tmp_path / "old" / target.filename), target.path)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert opened(tmp_path / "new" / master.name).n_frames == 23


def test_files_of_different_scans_do_not_mix(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, DATA)
    scans.stack(tmp_path / "scan_data_000002.h5", scans.frames(10, dtype="uint32"))
    with pytest.raises(DataError, match="not of one scan"):
        opened(master)


def test_files_that_are_no_scan(tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("no HDF5 at all")
    empty = tmp_path / "empty.h5"
    with h5py.File(empty, "w") as file:
        file["numbers"] = [1.0]
    torn = scans.stack(tmp_path / "torn.h5", DATA)
    torn.write_bytes(torn.read_bytes()[:3000])
    for path, words in (
        (tmp_path / "nowhere.h5", "is not there"),
        (text, "is no HDF5 file"),
        (empty, "holds no frames"),
        (torn, "damaged or unfinished"),
    ):
        with pytest.raises(DataError, match=words):
            opened(path)


def test_a_mask_of_another_shape(tmp_path: Path) -> None:
    master = scans.legacy(tmp_path, DATA, pixel_mask=np.zeros((5, 5)))
    with pytest.raises(DataError, match="pixel mask"):
        opened(master)


def test_a_real_master_whose_data_file_is_elsewhere(realdata: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        opened(realdata / "nxmx_eiger16m_master_dls.nxs")


def test_a_real_frame(realdata: Path) -> None:
    scan = opened(realdata / "eiger2_9m_saxs_aps12idb.h5")
    assert (scan.n_frames, scan.shape, scan.dtype) == (1, (3262, 3108), np.dtype("uint32"))
    assert scan.detector.distance_m == pytest.approx(1.99409)  # millimetres without a word about it
