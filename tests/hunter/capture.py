"""Every packet that leaves the host's namespace, on any interface: one JSON line a kind, at the end.

Runs beside the sandbox, never in it. Only what opens something is kept: a TCP packet with SYN and
without ACK, each UDP datagram's destination, any other protocol. The last line says how many packets
the kernel had to drop before they were looked at; a judge must not believe a capture that has holes.
"""

import ctypes, json, socket, struct, sys, threading

SNAP = 128  # bytes of a packet that are looked at
ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
PACKET_OUTGOING = 4
TCP, UDP = 6, 17

capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
# One instruction: take every packet, and no more of it than SNAP bytes.
instruction = ctypes.create_string_buffer(struct.pack('HBBI', 0x06, 0, 0, SNAP))
program = struct.pack('HP', 1, ctypes.addressof(instruction))
capture.setsockopt(socket.SOL_SOCKET, 26, program)
capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
capture.settimeout(0.2)

seen = set()
ended = threading.Event()


def note(interface, protocol, address, number):
    seen.add((interface, protocol, address, number))


def transport(interface, protocol, address, rest):
    if len(rest) < 14:
        return note(interface, f'{protocol} (short)', address, 0)
    if protocol == TCP:
        if rest[13] & 0x12 == 2:
            note(interface, 'tcp', address, struct.unpack('!H', rest[2:4])[0])
    elif protocol == UDP:
        note(interface, 'udp', address, struct.unpack('!H', rest[2:4])[0])
    else:
        # Of ICMP the type tells; of others the number of the protocol.
        note(interface, {1: 'icmp', 58: 'icmp6'}.get(protocol, str(protocol)), address, rest[0])


def look(packet, kind, interface):
    if kind == 0x0800 and len(packet) >= 20:
        header = (packet[0] & 15) * 4
        transport(interface, packet[9], socket.inet_ntoa(packet[16:20]), packet[header:])
    elif kind == 0x86dd and len(packet) >= 40:
        protocol, rest = packet[6], packet[40:]
        if protocol == 0 and len(rest) >= 8:  # hop-by-hop options, as multicast listener reports have
            protocol, rest = rest[0], rest[(rest[1] + 1) * 8:]
        transport(interface, protocol, socket.inet_ntop(socket.AF_INET6, packet[24:40]), rest)
    elif kind != 0x0806:  # ARP asks for the next hop
        note(interface, f'frame {kind:#06x}', '', 0)


def run():
    while not ended.is_set():
        try:
            packet, (interface, kind, direction, *_) = capture.recvfrom(SNAP)
        except socket.timeout:
            continue
        if direction == PACKET_OUTGOING:
            look(packet, kind, interface)


thread = threading.Thread(target=run)
thread.start()
print('capturing', flush=True)
sys.stdin.read()
ended.set()
thread.join()
_, dropped = struct.unpack('II', capture.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
for interface, protocol, address, number in sorted(seen):
    print(json.dumps({'interface': interface, 'protocol': protocol, 'address': address, 'number': number}))
print(json.dumps({'dropped': dropped}))
