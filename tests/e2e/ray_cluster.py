"""A head and three machines of a Ray cluster in one machine: tells the head's address, and ends with its input."""

import sys

from ray.cluster_utils import Cluster

STORE = 80_000_000
"""bytes of Ray's object store: nothing of ours uses it"""


def main():
    cluster = Cluster()
    cluster.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
    for slot in "abc":
        labels = {"avis-slot": slot}
        cluster.add_node(num_cpus=1, resources={"avis_device": 1}, labels=labels, object_store_memory=STORE)
    print(f"AVIS test cluster at {cluster.address}", flush=True)
    sys.stdin.read()
    cluster.shutdown()


main()
