"""What the tests of the experiments share."""

import json

import pytest


@pytest.fixture
def numbers():
    """What a run wrote, without its times, which are looked at and taken out."""

    def read(out):
        results = json.loads((out / "results.json").read_text())["results"]
        for result in results:
            for timed in ("training_seconds", "prediction_seconds"):
                assert result.pop(timed) > 0
            result["history"].pop("seconds")
        return results

    return read
