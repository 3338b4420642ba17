"""The APIs that agents and their libraries talk to, as far as the tests do: HTTP on one port, HTTPS on the
other. Every model says "hello"."""

import http.server
import json
import ssl
import sys
import threading

ADDRESS, CERTIFICATE, KEY = sys.argv[1:]
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def event(kind, **fields):
    return "event: %s\ndata: %s\n\n" % (kind, json.dumps(dict(type=kind, **fields)))


def chat(asked):
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    parts = [({"role": "assistant", "content": "hel"}, None), ({"content": "lo"}, None), ({}, "stop")]
    chunks = [
        {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
         "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        for delta, end in parts
    ]
    return ["data: %s\n\n" % json.dumps(chunk) for chunk in chunks] + ["data: [DONE]\n\n"]


def responses(asked):
    text = {"type": "output_text", "text": "hello", "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    usage = dict(USAGE, input_tokens_details={"cached_tokens": 0}, output_tokens_details={"reasoning_tokens": 0})
    answer = {"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "m",
              "output": [item], "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    if not asked.get("stream"):
        return answer
    begun = dict(item, status="in_progress", content=[])
    return [
        event("response.created", response=dict(answer, status="in_progress", output=[])),
        event("response.output_item.added", output_index=0, item=begun),
        event("response.output_text.delta", item_id="m", output_index=0, content_index=0, delta="hello"),
        event("response.output_item.done", output_index=0, item=item),
        event("response.completed", response=answer),
    ]


def messages(asked):
    usage = {"input_tokens": 1, "output_tokens": 1}
    answer = {"id": "m", "type": "message", "role": "assistant", "model": "m", "usage": usage,
              "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn", "stop_sequence": None}
    if not asked.get("stream"):
        return answer
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        event("message_start", message=dict(answer, content=[], stop_reason=None)),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "hello"}),
        event("content_block_stop", index=0),
        event("message_delta", delta=end, usage={"output_tokens": 1}),
        event("message_stop"),
    ]


ANSWERS = {"/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def asked(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return body

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.asked()
        self.answer("text/html", b"<p>hello</p>\n")

    do_HEAD = do_PUT = do_DELETE = do_GET

    def do_POST(self):
        body = self.asked()
        known = ANSWERS.get(self.path.split("?")[0])
        if known is None:
            return self.answer("application/json", b"{}")
        said = known(json.loads(body))
        if isinstance(said, dict):
            return self.answer("application/json", json.dumps(said).encode())
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in said:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part.encode()))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def serve(port, context):
    server = http.server.ThreadingHTTPServer((ADDRESS, port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(CERTIFICATE, KEY)
serve(80, None)
serve(443, tls)
print("serving", flush=True)
