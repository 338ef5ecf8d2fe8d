"""The network interface by which workers of several nodes connect."""

from __future__ import annotations

import socket

from orchestration.trials.process_group import interface_towards


def test_an_interface_is_found_by_its_address() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("127.0.1.1") is None  # the address of the host name on many Debian machines


def test_the_one_to_the_outside_is_found_too() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))  # sends no packet
        address = asking.getsockname()[0]
    assert interface_towards(address) in [name for _, name in socket.if_nameindex()]
