"""A bad network between two interfaces, in user space: delay, loss, bursts, a bottleneck, a blackout. Needs root.

bridge.py IF_A IF_B '{"delay": 0.02, "loss": 0.03, "burst": 1, "kbps": 0, "queue": 0.3, "blackout": [2, 5], "seed": 1}'
Only UDP is impaired; times in seconds from its first packet; the same losses with every run of one seed.
"""

import heapq
import itertools
import json
import random
import select
import socket
import sys
import time

ALL_PROTOCOLS = socket.htons(3)
OUTGOING = 4


class Way:
    """One direction: packets that came in leave at `out`, later, or never."""

    def __init__(self, out, profile, seed):
        self.out, self.profile, self.random = out, profile, random.Random(seed)
        self.bad, self.free = False, 0.0

    def departure(self, packet, now, age):
        """When `packet` leaves; None when it is lost."""
        start, length = self.profile.get("blackout", (0, 0))
        if start <= age < start + length or self.is_lost():
            return None
        return self.queued(packet, now) if self.profile.get("kbps") else now + self.profile["delay"]

    def is_lost(self):
        loss, burst = self.profile["loss"], self.profile["burst"]
        chance = 1 - 1 / burst if self.bad else loss / burst / max(1e-9, 1 - loss)
        self.bad = self.random.random() < chance
        return self.bad

    def queued(self, packet, now):
        start = max(now, self.free)
        if start - now > self.profile["queue"]:
            return None
        self.free = start + 8 * len(packet) / (1000 * self.profile["kbps"])
        return self.free + self.profile["delay"]


def is_udp(packet):
    return packet[12:14] == b"\x08\x00" and packet[23] == 17


def without_checksum(packet):
    """The packet with no UDP checksum, which IPv4 allows: the sender left it to a network card that is not there."""
    at = 14 + 4 * (packet[14] & 15) + 6
    return packet[:at] + bytes(2) + packet[at + 2 :]


def listen(interface):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ALL_PROTOCOLS)
    sock.bind((interface, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock


def main(a, b, profile):
    profile = {"delay": 0.0, "loss": 0.0, "burst": 1, "kbps": 0, "queue": 0.3, "seed": 1, **profile}
    left, right = listen(a), listen(b)
    ways = {left: Way(right, profile, 2 * profile["seed"]), right: Way(left, profile, 2 * profile["seed"] + 1)}
    waiting, order, began = [], itertools.count(), None
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        patience = max(0.0, waiting[0][0] - now) if waiting else 1.0
        for sock in select.select(list(ways), [], [], patience)[0]:
            packet, address = sock.recvfrom(65535)
            if address[2] == OUTGOING:
                continue
            now = time.monotonic()
            began = now if began is None and is_udp(packet) else began
            way = ways[sock]
            due = way.departure(packet, now, now - began) if is_udp(packet) else now
            if due is not None:
                out = without_checksum(packet) if is_udp(packet) else packet
                heapq.heappush(waiting, (due, next(order), way.out, out))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, out, packet = heapq.heappop(waiting)
            out.send(packet)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
