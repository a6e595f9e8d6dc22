"""The current engine of ClickHouse (the package chdb) behind as much of its HTTP interface as a sink uses.

clickhouse_engine.py DIR PORT: serves on loopback until it is killed; the file DIR/ready is there when it does.

The engine takes statements as text only, so the rows of an INSERT go through a file in memory: the columns' types are looked
up, as the real server does, and the rows are read from the file with exactly these. Nothing but the engine writes into DIR, so
that it is the engine that says when its device is full.

A failure is answered with the engine's words, the code in a header, and the status that ClickHouse has for that code. The
engine knows no users: their passwords are looked at here.
"""

import contextlib
import gzip
import http.server
import os
import pathlib
import re
import struct
import sys
import threading
import urllib.parse

INSERT = re.compile(r"INSERT INTO (?P<table>\S+) \((?P<columns>[^)]*)\) FORMAT RowBinary", re.S)
PASSED_ON = ("insert_deduplication_token", "async_insert", "wait_for_async_insert", "deduplicate_insert")
CODE = re.compile(r"Code: (\d+)\.")
# Codes that a sink meets and that ClickHouse does not answer with 500.
STATUSES = {
    400: (8, 36, 44, 53, 62, 117),  # columns, arguments, types, syntax and data that are wrong
    403: (192, 193, 497, 516),  # users, passwords and rights
    404: (46, 47, 50, 60, 81, 115),  # functions, identifiers, types, tables, databases and settings that are not there
}
PASSWORDS = {"default": "", "guarded": "secret-1"}

directory, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
# The engine is one for the process.
lock = threading.Lock()


def status_of(code):
    return next((status for status, codes in STATUSES.items() if code in codes), 500)


def authenticate(user, password):
    if PASSWORDS.get(user) != password:
        raise PermissionError(
            f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user with such "
            "name. (AUTHENTICATION_FAILED)"
        )


@contextlib.contextmanager
def in_memory(content):
    """The path of a file with this content, for as long as it is needed. It ends with the process, however that ends."""
    with open(os.memfd_create("content"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def unpacked(body, coding):
    if coding == "gzip":
        return gzip.decompress(body)
    if coding == "zstd":
        # The engine itself reads it.
        with in_memory(body) as path:
            return engine.query(f"SELECT * FROM file('{path}', 'RawBLOB', 'a String', 'zstd')", "RawBLOB").bytes()
    return body


def unpacked_blocks(body):
    """ClickHouse's own blocks of lz4. Their checksums are looked at by the real server."""
    out, at = bytearray(), 0
    while at < len(body):
        method, length, size = struct.unpack_from("<BII", body, at + 16)
        assert method == 0x82, method
        out += unpacked_lz4(body[at + 25 : at + 16 + length], size)
        at += 16 + length
    return bytes(out)


def unpacked_lz4(block, size):
    out, at = bytearray(), 0

    def extended(length):
        nonlocal at
        if length == 15:
            while True:
                at += 1
                length += block[at - 1]
                if block[at - 1] < 255:
                    break
        return length

    while at < len(block):
        token = block[at]
        at += 1
        literals = extended(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at == len(block):
            break
        offset = block[at] | block[at + 1] << 8
        at += 2
        length = extended(token & 15) + 4
        start = len(out) - offset
        # What is repeated may reach into what it makes.
        while length:
            piece = out[start : start + length]
            out += piece
            length -= len(piece)
    assert len(out) == size
    return out


def insert(match, rows, settings):
    # A name may have a point in it, and none has a comma.
    names = [name.strip().strip("`") for name in match["columns"].split(",")]
    found = engine.query(f"DESCRIBE TABLE {match['table']} FORMAT TabSeparatedRaw").bytes().decode()
    types = dict(line.split("\t")[:2] for line in found.splitlines())
    if not types.keys() >= set(names):
        # The engine says it in its own words.
        engine.query(f"INSERT INTO {match['table']} ({match['columns']}) SELECT {', '.join('0' for _ in names)}")
    # What is inserted goes by its place, so that names need not be quoted once more.
    structure = ", ".join(f"c{place} {types[name]}" for place, name in enumerate(names))
    structure = structure.replace("\\", "\\\\").replace("'", "\\'")
    given = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
    with in_memory(rows) as path:
        engine.query(
            f"INSERT INTO {match['table']} ({match['columns']}) {'SETTINGS ' + given if given else ''} "
            f"SELECT * FROM file('{path}', 'RowBinary', '{structure}')"
        )


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        status, code, answer = 200, None, b""
        try:
            authenticate(self.headers.get("X-ClickHouse-User", "default"), self.headers.get("X-ClickHouse-Key", ""))
            with lock:
                # One that is not there fails every statement, whatever it is about.
                engine.query(f"USE `{asked.get('database', 'default').replace('`', '``')}`")
                body = unpacked(body, self.headers.get("Content-Encoding"))
                if asked.get("decompress") == "1":
                    body = unpacked_blocks(body)
                match = INSERT.fullmatch(asked.get("query", "").strip())
                if match:
                    settings = {name: asked[name] for name in PASSED_ON if name in asked}
                    insert(match, body, settings)
                else:
                    answer = engine.query(body.decode()).bytes() or b""
        except Exception as error:  # The engine's own words, as the server says them.
            answer = str(error).encode()
            found = CODE.match(str(error))
            code = int(found[1]) if found else None
            status = status_of(code)
        self.send_response(status)
        if code is not None:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


# A port that is taken is found before the seconds that the engine takes to load.
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)

from chdb import session  # noqa: E402

engine = session.Session(str(directory / "engine"))
(directory / "ready").touch()
server.serve_forever()
