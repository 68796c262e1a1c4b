"""A report can always be written, whatever the sender's numbers are."""

import random

from aiortc.rtp import RtcpRrPacket, RtcpSenderInfo, RtcpSrPacket, RtpPacket

from server.webrtc.receiver_reports import ReceiverReports


def test_timestamps_of_a_hostile_sender_leave_a_report_that_can_be_written(monkeypatch):
    """The jitter outgrew its field: struct.error ended the reports, and the receiver could never stop."""
    clock = [0.0]
    monkeypatch.setattr("aiortc.rtcrtpreceiver.time.time", lambda: clock[0])
    reports = ReceiverReports()
    for number in range(200):
        clock[0] += 60_000.0
        reports.count(RtpPacket(sequence_number=number, timestamp=number % 2 * 0xFFFFFFFF, ssrc=7), 90000)
    (block,) = reports.blocks(0.0)
    assert block.jitter == 0xFFFFFFFF
    assert bytes(RtcpRrPacket(ssrc=1, reports=[block]))


def test_any_sequence_numbers_leave_a_report_that_can_be_written():
    rng, reports = random.Random(1), ReceiverReports()
    for _ in range(2000):
        reports.count(
            RtpPacket(sequence_number=rng.randrange(1 << 16), timestamp=rng.randrange(1 << 32), ssrc=7), 90000
        )
        if rng.random() < 0.1:
            assert bytes(RtcpRrPacket(ssrc=1, reports=reports.blocks(0.0)))


def test_a_sender_learns_the_round_trip_from_its_own_report():
    reports = ReceiverReports()
    reports.count(RtpPacket(sequence_number=1, ssrc=7), 90000)
    reports.note(RtcpSrPacket(ssrc=7, sender_info=RtcpSenderInfo(0x0000_1234_5678_9ABC, 0, 0, 0)), 10.0)
    (block,) = reports.blocks(10.5)
    assert (block.lsr, block.dlsr) == (0x1234_5678, 32768)


def test_streams_that_are_no_longer_received_are_forgotten():
    """An SSRC stayed for ever: with more than 255 of them no report could be written."""
    reports = ReceiverReports()
    for ssrc in range(300):
        reports.count(RtpPacket(sequence_number=1, ssrc=ssrc), 90000)
        reports.keep((ssrc, None))
    assert [block.ssrc for block in reports.blocks(0.0)] == [299]
