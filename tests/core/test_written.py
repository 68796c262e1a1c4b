import os
import stat

import pytest

from core.written import written


@pytest.fixture
def ordinary_umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


def test_others_may_read_what_a_library_wrote_for_its_owner_only(tmp_path, ordinary_umask):
    """Converted weights were 0600: the user of a container could not read what was mounted for it."""
    with written(tmp_path / "new" / "a") as part:
        part.touch(mode=0o600)
    assert stat.S_IMODE((tmp_path / "new" / "a").stat().st_mode) == 0o644
    assert os.umask(0o022) == 0o022, "the process keeps its umask"


def test_what_failed_leaves_the_file_that_was_there_and_nothing_beside_it(tmp_path, ordinary_umask):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), written(tmp_path / "a") as part:
        part.write_text("half")
        raise OSError("the disk is full")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
