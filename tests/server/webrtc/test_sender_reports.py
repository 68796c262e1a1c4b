"""A sender reports what it sent, and learns the round trip from the answers."""

import pytest
from aiortc.rtp import RtcpReceiverInfo, RtcpSrPacket, RtpPacket

from server.webrtc.sender_reports import SenderReports

NTP = 0xE000_1234_5678_0000
"""a time in the 64 bits of NTP"""


def answer(lsr, dlsr):
    return RtcpReceiverInfo(ssrc=1, fraction_lost=0, packets_lost=0, highest_sequence=0, jitter=0, lsr=lsr, dlsr=dlsr)


def sent(packets=3):
    reports = SenderReports()
    for number in range(packets):
        reports.count(RtpPacket(sequence_number=number, timestamp=90 * number, payload=b"x" * 100), NTP + number)
    return reports


def test_a_report_counts_what_was_sent():
    report = sent().report(1.0)
    assert (report.packet_count, report.octet_count, report.rtp_timestamp) == (3, 300, 180)
    assert bytes(RtcpSrPacket(ssrc=1, sender_info=report))


def test_the_round_trip_is_the_time_to_the_answer_without_the_receivers_own():
    reports = sent()
    middle = reports.report(10.0).ntp_timestamp >> 16 & 0xFFFFFFFF
    reports.take(answer(middle, 65536 // 2), 10.8)
    assert reports.round_trip == pytest.approx(0.3)
    reports.take(answer(middle, 65536 // 2), 10.6)
    assert reports.round_trip == pytest.approx(0.85 * 0.3 + 0.15 * 0.1)


@pytest.mark.parametrize("lsr, dlsr", [(1, 65536), (0, 0), (None, 0)])
def test_an_answer_to_no_report_of_ours_says_nothing(lsr, dlsr):
    reports = sent()
    middle = reports.report(10.0).ntp_timestamp >> 16 & 0xFFFFFFFF
    reports.take(answer(middle if lsr is None else lsr, dlsr), 11.0)
    assert reports.round_trip is None


def test_a_receiver_that_lies_gives_no_negative_round_trip():
    reports = sent()
    middle = reports.report(10.0).ntp_timestamp >> 16 & 0xFFFFFFFF
    reports.take(answer(middle, 0xFFFFFFFF), 10.1)
    assert reports.round_trip == 0.0
