from tests.battery.test_sync import *
import pytest
@pytest.mark.timeout(1800)
def test_limits(install, tmp_path):
    source = tmp_path / "people.csv"
    write(source, range(100_000))
    on = install(people=0, slots=1, replicas=0, platform=("--limits","published"), settings={"REGISTRANTS_SOURCE": str(source)})
    first = sync(on)
    log.info("limits: %s throttled %s", first, on.platform.control("GET","stats")["classes"])
