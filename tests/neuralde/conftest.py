"""What the tests of the experiments share."""

import json

import pytest


@pytest.fixture
def numbers():
    """What a run wrote, without its times, which are looked at and taken out."""

    def read(out):
        results = json.loads((out / "results.json").read_text())["results"]
        for result in results:
            for part in ("training", "prediction"):
                assert result.pop(f"{part}_seconds") > 0
                assert result.pop(f"{part}_cpu_seconds") > 0
            assert len(result["history"].pop("seconds")) == len(result["history"].pop("cpu_seconds"))
        return results

    return read
