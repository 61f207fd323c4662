"""Other programs open what `dada stxm` writes: pyFAI's diffraction-map viewer with its own reader and, where there is a
Qt, on an invisible screen; silx with its NXdata reader is in `t5_stxm_family.py`. What H5Web needs is known from
having opened these files in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import dada
from dada.grid import ScanGrid
from tests.checklogs import ExpectedLog
from tests.harness import scans

SHAPE = (4, 5)
BINS = 30


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """Maps of a zigzag scan with a hole, and with radial bins in which no pixel is valid."""
    master = scans.legacy(tmp_path, scans.frames(19), per_file=8)
    y, x = np.indices(scans.SHAPE)
    mask = np.abs(np.hypot(y - 33, x - 26) - 20) < 3
    grid = ScanGrid(SHAPE, zigzag=True, missing=(7,), step=(0.5, 0.25), unit="um")
    out = tmp_path / "maps.h5"
    dada.stxm(master, SHAPE, grid=grid, mask=mask, radial_bins=BINS, store=False, output=out)
    with h5py.File(out) as file:
        assert np.isnan(file["/entry/iq/data"][0, 0]).any()
    return out


def test_the_reader_of_pyfais_viewer(result: Path, expected_log: ExpectedLog) -> None:
    expected_log.add("pyOpenCl")  # silx says that it could be faster
    reader = pytest.importorskip("pyFAI.gui.pilx.utils")
    configurations = pytest.importorskip("pyFAI.io.integration_config")
    with h5py.File(result) as file:
        process = file["/entry_0000/pyFAI"]
        data = process["result"]
        signal = reader.get_signal_dataset(data, default="intensity")
        axes = reader.get_axes_index(signal)
        picture = signal[()].sum(axis=axes.radial)
        assert picture.shape == SHAPE
        assert np.argwhere(~np.isfinite(picture)).tolist() == [[1, 2]]  # the point without a frame, and no other
        assert reader.get_axes_dataset(data, dim=axes.slow, default="slow")[1] == 0.5
        assert reader.get_axes_dataset(data, dim=axes.fast, default="fast").attrs["long_name"] == "x (um)"
        pointer = reader.get_dataset(data, "map_ptr")[()]
        assert pointer[1].tolist() == [8, 7, -1, 6, 5]
        settings = json.loads(reader.get_dataset(process, "configuration/data")[()])
        configuration = configurations.WorkerConfig.from_dict(settings, inplace=True)
        radial = reader.get_radial_dataset(data, size=configuration.nbpt_rad)[()]
        assert radial.shape == (BINS,)
        q = reader.compute_radial_values(configuration)
        assert q.shape == scans.SHAPE
        assert q.max() == pytest.approx(radial[-1], abs=radial[1] - radial[0])
        images = [file["/entry_0000/measurement"][name] for name in sorted(file["/entry_0000/measurement"])]
        assert [len(stack) for stack in images] == [8, 8, 3]


def shown(file: h5py.File, frame: int) -> np.ndarray:
    """The image that pyFAI's viewer shows for a frame: it counts through the images that it can open."""
    group = file["/entry_0000/measurement"]
    for stack in (group[name] for name in sorted(group) if name in group):
        if frame < len(stack):
            return np.asarray(stack[frame])
        frame -= len(stack)
    raise AssertionError("no such image")


def test_frames_keep_their_numbers_where_a_file_is_missing(tmp_path: Path) -> None:
    data = scans.frames(20)
    master = scans.legacy(tmp_path / "scan", data, per_file=6)
    (master.parent / "scan_data_000002.h5").unlink()
    out = tmp_path / "maps.h5"
    dada.stxm(master, SHAPE, grid=ScanGrid(SHAPE, aborted=True), store=False, output=out)
    with h5py.File(out) as file:
        assert file["/entry/dada/map_ptr"][3, 4] == 19
        for frame in (0, 5, 12, 17, 18, 19):
            np.testing.assert_array_equal(shown(file, frame), data[frame])
        assert (shown(file, 8) == np.iinfo(data.dtype).max).all()
    assert out.stat().st_size < 2 * data.nbytes


def test_frames_keep_their_numbers_where_a_part_of_a_file_is_the_scan(tmp_path: Path) -> None:
    data = scans.frames(24)
    source = scans.stack(tmp_path / "all.h5", data)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        layout = h5py.VirtualLayout((20, *scans.SHAPE), data.dtype)
        layout[:] = h5py.VirtualSource(source, "/entry/data/data", data.shape, data.dtype)[3:23]
        file.create_virtual_dataset("/entry/data/data", layout)
    out = tmp_path / "maps.h5"
    dada.stxm(tmp_path / "part.h5", SHAPE, store=False, radial_bins=0, output=out)
    with h5py.File(out) as file:
        for frame in (0, 7, 19):
            np.testing.assert_array_equal(shown(file, frame), data[3 + frame])


def test_every_dataset_opens_without_a_plugin(result: Path) -> None:
    """A browser's HDF5 (H5Web) has gzip, and refuses what h5py could also compress with."""
    chunked = {}

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks:
            properties = item.id.get_create_plist()
            chunked[name] = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}

    with h5py.File(result) as file:
        file["/entry"].visititems(look)
    assert {"iq/data", "pyFAI/result/intensity", "dada/mask"} <= set(chunked)
    assert set().union(*chunked.values()) == {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
