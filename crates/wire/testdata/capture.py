#!/usr/bin/env python3
"""Makes the captured ClientHellos beside this file anew: starts real TLS clients, each of which asks
a listener on loopback for `a.example`, and keeps what it says first.

    crates/wire/testdata/capture.py [CLIENT...]

Needs curl, openssl, node, java (a JDK), go, python3. What was captured is committed: the tests run
without these programs, and read the same bytes everywhere.
"""

import os
import socket
import subprocess
import sys
import tempfile

NAME = 'a.example'
PATIENCE = 60
HERE = os.path.dirname(os.path.abspath(__file__))

JAVA = '''import javax.net.ssl.*;
class Hello {
    public static void main(String[] a) throws Exception {
        int port = Integer.parseInt(a[0]);
        java.net.Socket plain = new java.net.Socket("127.0.0.1", port);
        var tls = (SSLSocket) ((SSLSocketFactory) SSLSocketFactory.getDefault())
            .createSocket(plain, "NAME", port, true);
        tls.startHandshake();
    }
}
'''.replace('NAME', NAME)
GO = '''package main

import ("crypto/tls"; "os")

func main() {
    config := &tls.Config{ServerName: "NAME", NextProtos: []string{"h2", "http/1.1"}}
    tls.Dial("tcp", "127.0.0.1:"+os.Args[1], config)
}
'''.replace('NAME', NAME)
NODE = f"require('tls').connect({{host: '127.0.0.1', port: PORT, servername: '{NAME}'}})" \
       ".on('error', () => {})"
PYTHON = f'''import socket, ssl, sys
plain = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
ssl.create_default_context().wrap_socket(plain, server_hostname='{NAME}')
'''


def commands(folder, port):
    java, go = f'{folder}/Hello.java', f'{folder}/hello.go'
    for file, text in ((java, JAVA), (go, GO)):
        with open(file, 'w') as out:
            out.write(text)
    port = str(port)
    return {
        'curl': ['curl', '-sk', '--noproxy', '*', '--connect-to', f'::127.0.0.1:{port}', f'https://{NAME}/'],
        'openssl': ['openssl', 's_client', '-connect', f'127.0.0.1:{port}', '-servername', NAME],
        'node': ['node', '-e', NODE.replace('PORT', port)],
        'java': ['java', java, port],
        'go': ['go', 'run', go, port],
        'python': ['python3', '-c', PYTHON, port],
    }


def record(stream):
    """The first TLS record: no client here splits its hello."""
    data = b''
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], 'big'):
        piece = stream.recv(65536)
        if not piece:
            sys.exit(f'the client closed after {len(data)} bytes')
        data += piece
    return data


def main(wanted):
    with socket.create_server(('127.0.0.1', 0)) as listener, tempfile.TemporaryDirectory() as folder:
        listener.settimeout(PATIENCE)
        for client, command in commands(folder, listener.getsockname()[1]).items():
            if wanted and client not in wanted:
                continue
            running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, env={**os.environ, 'GO111MODULE': 'off'})
            stream, _ = listener.accept()
            stream.settimeout(PATIENCE)
            with stream:
                hello = record(stream)
            running.wait(timeout=PATIENCE)
            with open(f'{HERE}/hello-{client}.bin', 'wb') as out:
                out.write(hello)
            print(f'{client}: {len(hello)} bytes')


main(sys.argv[1:])
