"""One layer is followed, whatever else a sender sends."""

from server.webrtc.layers import Layer, Layers

HIGH, MIDDLE, LOW = Layer(11, 21), Layer(12, 22), Layer(13)


def followed(layers, packets):
    """The SSRCs of the packets (SSRC, time) that are accepted."""
    return [ssrc for ssrc, now in packets if layers.accepts(ssrc, now)]


def test_of_three_layers_at_once_the_preferred_one_is_followed():
    """Three SSRCs in one assembler gave no picture, and key frame requests without end."""
    layers = Layers((HIGH, MIDDLE, LOW))
    packets = [(ssrc, 0.01 * n) for n in range(100) for ssrc in (13, 12, 11)]
    assert set(followed(layers, packets)) == {11} and layers.switches == 0


def test_a_layer_that_falls_silent_is_left_for_one_that_does_not():
    layers = Layers((HIGH, MIDDLE, LOW), silence=1.0)
    assert followed(layers, [(11, 0.0), (12, 0.5), (12, 1.0)]) == [11]
    assert followed(layers, [(12, 1.01), (11, 1.02), (12, 1.03)]) == [12, 12]
    assert layers.followed == MIDDLE and layers.switches == 1


def test_a_preferred_layer_that_never_arrives_is_not_waited_for_long():
    layers = Layers((HIGH, MIDDLE), silence=1.0)
    assert followed(layers, [(12, 0.1 * n) for n in range(20)]) == [12] * 9


def test_an_ssrc_that_was_not_negotiated_is_never_followed():
    layers = Layers((HIGH,), silence=1.0)
    assert followed(layers, [(11, 0.0), (99, 0.0), (99, 50.0)]) == [11]


def test_without_negotiated_ssrcs_the_first_one_is_followed():
    layers = Layers()
    assert followed(layers, [(5, 0.0), (6, 0.1), (5, 0.2)]) == [5, 5]


def test_retransmissions_are_those_of_the_followed_layer():
    layers = Layers((HIGH, MIDDLE), silence=1.0)
    assert not layers.accepts_repair(21), "nothing is followed yet"
    layers.accepts(11, 0.0)
    assert layers.accepts_repair(21) and not layers.accepts_repair(22)
    layers.accepts(12, 5.0)
    assert layers.accepts_repair(22) and not layers.accepts_repair(21)
