"""What a node tells: energy counters that wrap, cores that are shared through one kernel."""

from dist_calo.launching.node import EnergyCounter, kernel_id, peak_memory_bytes, process_age_s
from dist_calo.scaling.measure import RankFacts, step_parts, threads_per_core


def zone(folder, name, microjoules, largest=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    if largest:
        (folder / "max_energy_range_uj").write_text(f"{largest}\n")


def test_packages_and_memory_are_added_up_and_counters_wrap(tmp_path):
    first, memory = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:1"
    zone(first, "package-0", 9_000_000, 10_000_000)
    zone(memory, "dram", 1_000_000, 10_000_000)
    zone(tmp_path / "intel-rapl:0:0", "core", 0, 10_000_000)
    counter = EnergyCounter(tmp_path, tmp_path / "none")
    zone(first, "package-0", 2_000_000, 10_000_000)
    zone(memory, "dram", 1_500_000, 10_000_000)
    assert counter.used_j() == 3.5


def test_crays_counter_is_that_of_the_whole_node(tmp_path):
    (tmp_path / "energy").write_text("1000 J 17 us\n")
    counter = EnergyCounter(tmp_path, tmp_path / "energy")
    (tmp_path / "energy").write_text("1250 J 18 us\n")
    assert counter.used_j() == 250


def test_a_node_without_counters_says_nothing(tmp_path):
    assert EnergyCounter(tmp_path, tmp_path / "energy").used_j() is None


def test_virtual_nodes_of_one_kernel_share_its_cores():
    def rank(node, kernel, *cores):
        return RankFacts(node, kernel, cores, 1)

    assert threads_per_core([rank("a", "k", 0, 1), rank("b", "k", 0, 1)]) == 1.0
    assert threads_per_core([rank(name, "k", 0, 1) for name in "abcd"]) == 2.0
    assert threads_per_core([rank(name, name, 0, 1) for name in "abcd"]) == 0.5


def test_a_thread_with_a_quota_takes_a_part_of_a_core():
    ranks = [RankFacts(name, "k", (0, 1), 1, quota=0.5) for name in "abcd"]
    assert threads_per_core(ranks) == 1.0
    assert threads_per_core([*ranks, RankFacts("e", "k", (0, 1), 1)]) == 1.5
    # Two ranks of a node share its quota, which may be more than they can use.
    assert threads_per_core([RankFacts("a", "k", (0, 1), 1, quota=quota) for quota in (0.5, 0.5)]) == 0.25
    assert threads_per_core([RankFacts("a", "k", (0, 1), 1, quota=64.0)]) == 0.5


def test_the_parts_of_a_step_are_means_but_for_the_worst_rank():
    # Elapsed, waiting for ranks and for data, two counters, processor seconds, of two steps.
    everyone = [(10.0, 3.0, 1.0, 0, 0, 6.0), (10.0, 1.0, 1.0, 0, 0, 4.0)]
    assert step_parts(everyone, 2, ["a", "b"], split=True) == {
        "compute_s": 3.5,
        "compute_slowest_s": 4.0,
        "compute_slowest_node": "b",
        "wait_comm_s": 1.0,
        "core_share_least": 0.5,
    }
    assert set(step_parts(everyone, 2, ["a", "b"], split=False).values()) == {None}


def test_this_process_knows_its_age_and_memory():
    assert 0 < process_age_s() < 86400
    assert kernel_id()
    memory = peak_memory_bytes()
    assert memory is not None
    assert memory > 1e6
