"""A guest of benches/machines.sh: a namespace of its own with a TAP, joined to a TAP of this one or to a socket.

`machine.py tap NAME CMD...` and `machine.py socket PATH CMD...` run CMD in the guest, with the address that every
gateway of these expects, and end as it does. The bridge takes a frame from one side and gives it to the other, with the
virtio-net header between TAPs, so that the kernels on both sides may leave it as long as they like.

`machine.py serve ADDRESS` and `machine.py load ADDRESS:PORT FLOWS BYTES` are the two ends: as many bytes as an
eight-byte number asks for.
"""

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

KIND, PLACE = sys.argv[1:3]
CMD = sys.argv[3:]
PIECE_BYTES = 1 << 18


def serve(address):
    server = socket.create_server((address, 0))
    print(server.getsockname()[1], flush=True)

    def answer(client):
        left, piece = struct.unpack('!Q', client.recv(8, socket.MSG_WAITALL))[0], bytes(PIECE_BYTES)
        while left > 0:
            left -= client.send(memoryview(piece)[:left])
        client.close()

    while True:
        threading.Thread(target=answer, args=[server.accept()[0]], daemon=True).start()


def load(to, flows, wanted):
    """Says how long it took."""
    address, port = to.split(':')
    short = []

    def fetch(wanted=wanted):
        got, room = 0, bytearray(4 * PIECE_BYTES)
        with socket.create_connection((address, int(port)), 30) as stream:
            stream.sendall(struct.pack('!Q', wanted))
            while more := stream.recv_into(room):
                got += more
        if got != wanted:
            short.append(got)

    # Until the devices are up, and the neighbours are found.
    fetch(1)
    threads = [threading.Thread(target=fetch) for _ in range(flows)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    if short:
        sys.exit(f'{short} bytes of {wanted} came')
    print(took)


if KIND == 'serve':
    serve(PLACE)
if KIND == 'load':
    load(PLACE, *map(int, CMD))
    sys.exit()

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454ca, 0x400454d0, 0x400454d8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
MTU = {'tap': 1500, 'socket': 65520}[KIND]
ADDRESS, GATEWAY = os.environ.get('GUEST', '10.0.2.15/24'), os.environ.get('GATEWAY', '10.0.2.2')
MAC = '52:54:00:12:34:56'
ROOM = 10 + 14 + 65536
TAKEN_AT_ONCE = 64


def tap(name, header):
    device = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if header else 0)
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH22x', name.encode(), flags))
    if header:
        fcntl.ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return device


def write_all(device, frame):
    try:
        os.write(device, frame)
    except OSError as error:
        # A queue that is full, or a device that is not up yet: it is lost, as on a wire.
        if error.errno not in (errno.EAGAIN, errno.EIO):
            raise


def between_taps(one, other):
    while True:
        readable = select.select([one, other], [], [])[0]
        for device in readable:
            to = other if device == one else one
            for _ in range(TAKEN_AT_ONCE):
                try:
                    frame = os.read(device, ROOM)
                except BlockingIOError:
                    break
                write_all(to, frame)


def to_socket(device, stream):
    poll = select.poll()
    poll.register(device, select.POLLIN)
    while True:
        poll.poll()
        for _ in range(TAKEN_AT_ONCE):
            try:
                frame = os.read(device, ROOM)
            except BlockingIOError:
                break
            parts = [struct.pack('!I', len(frame)), frame]
            sent = stream.sendmsg(parts)
            if sent < 4 + len(frame):
                stream.sendall(b''.join(parts)[sent:])


def from_socket(stream, device):
    room = bytearray(1 << 20)
    view, start, end = memoryview(room), 0, 0
    while True:
        got = stream.recv_into(view[end:])
        if got == 0:
            os._exit(1)
        end += got
        while end - start >= 4:
            length = struct.unpack_from('!I', room, start)[0]
            if end - start < 4 + length:
                break
            write_all(device, view[start + 4:start + 4 + length])
            start += 4 + length
        view[:end - start] = bytes(view[start:end])
        start, end = 0, end - start


# The guest first: what is made of it goes with its process.
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        sys.exit('machine.py: no namespaces for a guest')
    for file, text in (('setgroups', 'deny'), ('uid_map', f'0 {user} 1'), ('gid_map', f'0 {group} 1')):
        with open(f'/proc/self/{file}', 'w') as out:
            out.write(text)
    device = tap('eth0', KIND == 'tap')
    socket.send_fds(theirs, [b'x'], [device])
    theirs.recv(1)
    setup = (f'ip link set lo up && ip link set eth0 address {MAC} mtu {MTU} up && '
             f'ip address add {ADDRESS} dev eth0 && ip route add default via {GATEWAY}')
    subprocess.run(['sh', '-c', setup], check=True)
    theirs.close()
    os.close(device)
    os.execvp(CMD[0], CMD)
guest = socket.recv_fds(ours, 1, 1)[1][0]
if KIND == 'tap':
    bridges = [(between_taps, guest, tap(PLACE, True))]
else:
    stream = socket.socket(socket.AF_UNIX)
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        stream.setsockopt(socket.SOL_SOCKET, buffer, 1 << 20)
    stream.connect(PLACE)
    bridges = [(to_socket, guest, stream), (from_socket, stream, guest)]
ours.send(b'x')
for bridge, *ends in bridges:
    threading.Thread(target=bridge, args=ends, daemon=True).start()
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
