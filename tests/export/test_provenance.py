"""What a manifest says of the run behind it."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from dann.export.provenance import provenance
from dann.infer.errors import DannError
from dann.train.run_dir import RunDir


@pytest.fixture
def copy(run: RunDir, tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(run.root, tmp_path / "copy")))


def test_oracle_is_stamped(copy: RunDir):
    config, about = copy.read_config()
    oracle = dataclasses.replace(config, mode="target")
    copy.write_config(oracle, {key: about[key] for key in ("classes", "data", "simulated")})
    origin = provenance(copy)
    assert (origin["mode"], origin["oracle"]) == ("target", True)


def test_hash_of_the_configuration_changes_with_any_setting(copy: RunDir):
    before = provenance(copy)["config_sha256"]
    assert provenance(copy)["config_sha256"] == before
    config, about = copy.read_config()
    copy.write_config(dataclasses.replace(config, batch_size=5), {"classes": about["classes"]})
    assert provenance(copy)["config_sha256"] != before


def test_damaged_result_is_refused(copy: RunDir):
    copy.result.write_text('{"source": ')
    with pytest.raises(DannError, match="result.json is damaged"):
        provenance(copy)
