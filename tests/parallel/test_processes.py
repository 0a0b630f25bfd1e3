import numpy as np
import pytest

from kitlib.parallel import processes


@pytest.mark.parametrize(
    ("address", "fields", "message"),
    [
        *((address, {"count": 2, "index": 0}, "expected host:port") for address in ("foo:bar", "foo", ":80", "foo:²")),
        *((f"foo:{port}", {"count": 2, "index": 0}, "expected host:port") for port in (0, 65536)),
        ("localhost:1", {"count": 0, "index": 0}, "number of processes is 0; expected a whole number, 1 or more"),
        ("localhost:1", {"count": 2}, "need all three.*index=None"),
        ("localhost:1", {"count": 2, "index": 2}, "The index of this process is 2"),
    ],
)
def test_half_an_address_is_refused(address, fields, message):
    with pytest.raises(ValueError, match=message):
        processes.start(address, **fields)


def test_without_a_cluster_the_options_are_named(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"No cluster was found.*address of process 0"):
        processes.start()


def test_rows_of_each_process_by_hand():
    assert processes.gather_json({"next": 3}) == [{"next": 3}]  # of one process, which owns all rows
    x = np.arange(6)
    np.testing.assert_array_equal(processes.own_rows({"x": x})["x"], x)
    assert [processes.own_rows(x, 3, i).tolist() for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="A batch of 6 does not divide among 4 processes"):
        processes.own_rows(x, 4, 0)
