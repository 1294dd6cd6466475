"""The cost model against a point that it did not see: fitted to 1, 2 and 4 nodes, it predicts 8.

    python benchmarks/cost_model.py --out results/cost_model   # as root; SLURM, control groups 1

Eight nodes of the tests' virtual cluster, each with a fifth of a core's time, alone or beside the others, so that ranks
compute equally fast at any number of nodes; one rank a node, on networks of several rates, in weak scaling. `dist-calo
scale report` then does what it does for any experiment. What is measured already is not measured again. Prints the
report's lines for each network; the reports lie in the folders of their networks.
"""

from virtual_cluster import RATES, VirtualCluster, command_line, plan, scale

NODES = 8
SHARE = 0.2
"""Of a core's time that a node computes for: eight of them leave a fifth of two cores for SLURM and the links."""


def main() -> None:
    networks = "unlimited,1 Gb/s,100 Mb/s"
    parser = command_line(__doc__, networks, prefix="cm", subnet=91, batch=2, steps=12, repeats=3)
    options = parser.parse_args()
    out = options.out.absolute()
    with VirtualCluster(options.prefix, options.subnet, NODES, SHARE).running() as cluster:
        for name in options.networks:
            results = out / name.replace("/s", " per s")
            plan(results, options, "--nodes=1,2,4,8", "--overlap=off")
            cluster.limit(RATES[name])
            cluster.measure(results, options.repeats)
            print(f"{name}:\n{scale('report', str(results), '--out', str(results / 'report'))}", flush=True)


if __name__ == "__main__":
    main()
