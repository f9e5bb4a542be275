#!/usr/bin/env python3
"""A worker in nothing but Python's standard library, written from docs/workers.md.

It speaks the NATS client protocol over a socket, takes tasks of one kind, counts
the letters of the input "text" and reports them. With the input "wait" it works
until it is cancelled. What a real worker would do differently is what stands in
work(), and TLS: it would use a NATS client library.

Settings: NATS_HOST, NATS_PORT, NATS_USER, NATS_PASSWORD, WORKER_NAME (the
credential's penstock_name), WORKER_POOL, WORKER_KIND, TASK_KEYS (the
credential's penstock_task_keys, separated by spaces).
"""

import base64, hashlib, json, os, queue, signal, socket, sys, threading, time

NAME, POOL, KIND = os.environ["WORKER_NAME"], os.environ["WORKER_POOL"], os.environ["WORKER_KIND"]
WORKER = "%s-%d" % (socket.gethostname(), os.getpid())  # this process, for people
draining = threading.Event()


# --- NATS: lines over TCP ---------------------------------------------------------------

class Nats:
    """One connection. Answers are told apart by subscription id, because a task
    that is fetched arrives under the subject on which it was published."""

    def __init__(self):
        self.sock = socket.create_connection((os.environ["NATS_HOST"], int(os.environ["NATS_PORT"])))
        self.file, self.lock = self.sock.makefile("rb"), threading.Lock()
        self.queues, self.sid = {}, 0
        assert self.file.readline().startswith(b"INFO ")
        self.send("CONNECT " + json.dumps({
            "verbose": False, "pedantic": False, "lang": "python", "version": "1", "protocol": 1, "name": WORKER,
            "headers": True, "no_responders": True,
            "user": os.environ["NATS_USER"], "pass": os.environ["NATS_PASSWORD"]}) + "\r\nPING\r\n")
        while (line := self.file.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                sys.exit("the bus refuses the connection: %r" % line)
        threading.Thread(target=self.read, daemon=True).start()

    def send(self, text, body=b""):
        with self.lock:
            self.sock.sendall(text.encode() + body)

    def read(self):
        while line := self.file.readline():
            op, *args = line.decode().split()
            if op == "PING":
                self.send("PONG\r\n")
            elif op == "-ERR":
                print(line.decode().strip(), file=sys.stderr)
            elif op in ("MSG", "HMSG"):  # MSG subject sid [reply] size | HMSG subject sid [reply] headers size
                sizes = 1 if op == "MSG" else 2
                reply = args[2] if len(args) == 3 + sizes else None
                raw = self.file.read(int(args[-1]) + 2)[:-2]
                cut = int(args[-2]) if op == "HMSG" else 0
                q = self.queues.get(args[1])
                if q:
                    q.put((reply, raw[:cut].decode(), raw[cut:]))
        os._exit(3)  # disconnected: a real worker connects again

    def publish(self, subject, body, reply=""):
        self.send("PUB %s %s %d\r\n" % (subject, reply, len(body)), body + b"\r\n")

    def request(self, subject, body, timeout):
        """One answer as (reply, headers, body), or None."""
        with self.lock:
            self.sid += 1
            sid = str(self.sid)
            q = self.queues[sid] = queue.Queue()
        inbox = "_INBOX.%s.%s" % (token(NAME), sid)
        self.send("SUB %s %s\r\n" % (inbox, sid))
        try:
            self.publish(subject, body, inbox)
            return q.get(timeout=timeout)
        except queue.Empty:
            return None
        finally:
            self.send("UNSUB %s\r\n" % sid)
            del self.queues[sid]


def token(s):
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    return "".join(chr(c) if c in plain else "=%02X" % c for c in s.encode()) or "="


# --- Signatures: RFC 8032, section 5.1.7 ------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    x = (a[1] - a[0]) * (b[1] - b[0]) % P
    y = (a[1] + a[0]) * (b[1] + b[0]) % P
    z, w = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = y - x, w - z, w + z, y + x
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(n, a):
    r = (0, 1, 1, 0)
    while n:
        if n & 1:
            r = add(r, a)
        a, n = add(a, a), n >> 1
    return r


def point(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - xx) % P:
        raise ValueError("not a point")
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519(key, message, signature):
    try:
        a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    except ValueError:
        return False
    if len(signature) != 64 or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    left, right = times(s, BASE), add(r, times(h, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


def unbase64(s):
    return base64.b64decode(s + "=" * (-len(s) % 4), validate=True)


def signed(body, header):
    """Whether the engine signed body, by the value of its Penstock-Signature."""
    try:
        index, size, signature, path = header.split(".", 3)
        index, size, signature = int(index), int(size), unbase64(signature)
        path = [unbase64(p) for p in path.split(",")] if path else []
    except ValueError:
        return False
    if not 0 <= index < size:
        return False
    total, node = size, hashlib.sha256(b"\x00" + body).digest()
    while size > 1:
        if index ^ 1 < size:  # it has a sibling
            if not path or len(path[0]) != 32:
                return False
            pair = node + path[0] if index % 2 == 0 else path[0] + node
            node, path = hashlib.sha256(b"\x01" + pair).digest(), path[1:]
        index, size = index // 2, (size + 1) // 2
    message = b"penstock task group\n%d\n%s\n" % (total, node.hex().encode())
    return not path and any(ed25519(unbase64(k.rstrip("=")), message, signature) for k in os.environ["TASK_KEYS"].split())


# --- The task protocol ------------------------------------------------------------------

nats = Nats()


def ask(verb, request, give_up):
    """Asks the engine until it answers something but busy; None when give_up is reached."""
    subject = "penstock.api.w.default.%s.%s.%s" % (token(POOL), token(NAME), verb)
    pause = 0.1
    while time.monotonic() < give_up:
        got = nats.request(subject, json.dumps(request).encode(), min(5, max(0.1, give_up - time.monotonic())))
        wait = pause
        if got and not got[1].startswith("NATS/1.0 503"):  # 503: no engine is there
            answer = json.loads(got[2])
            if answer["status"] != "busy":
                return answer
            wait = max(pause, answer.get("retryAfterMs", 0) / 1000)
        time.sleep(wait)
        pause = min(2 * pause, 10)
    return None


def fetch():
    """One task message as (reply, headers, body), or None."""
    subject = "$JS.API.CONSUMER.MSG.NEXT.PENSTOCK_TASKS.%s-%s" % (token(POOL), token(KIND))
    got = nats.request(subject, b'{"batch":1,"expires":1000000000}', 2)
    if not got or got[0] is None:  # a status: 404, 408, 409, 503
        return None
    return got


def headers_of(text):
    pairs = (line.split(":", 1) for line in text.split("\r\n")[1:] if ":" in line)
    return {k.strip().lower(): v.strip() for k, v in pairs}


def handle(message):
    reply, headers, body = message
    if not signed(body, headers_of(headers).get("penstock-signature", "")):
        print("refused a task that the engine did not sign", file=sys.stderr)
        nats.publish(reply, b"+TERM the engine did not sign it")
        return
    task = json.loads(body)
    if task["pool"] != POOL or task["kind"] != KIND:
        nats.publish(reply, b"+TERM not for this worker")
        return
    me = {"task": task["id"], "run": task["run"], "worker": WORKER}
    asked = time.monotonic()
    answer = ask("attempt.start", me, asked + 20)
    if not answer or answer["status"] == "error":
        nats.publish(reply, b'-NAK {"delay": 2000000000}')
        return
    nats.publish(reply, b"+ACK")  # granted, or decided otherwise: the message has done its work
    if answer["status"] in ("refused", "stale"):
        return
    end, stale, reported = threading.Event(), threading.Event(), threading.Event()
    threading.Thread(target=keep_alive, args=(task, me, end, stale, reported), daemon=True).start()
    result = work(task, end)
    if not stale.is_set():
        ask("attempt.finish", {**me, "result": result}, time.monotonic() + 24 * 3600)
    reported.set()


def keep_alive(task, me, end, stale, reported):
    answered = time.monotonic()
    while not reported.wait(task["heartbeatMs"] / 1000):
        sent = time.monotonic()
        answer = ask("attempt.heartbeat", {**me, "progress": "counting"}, answered + task["heartbeatTimeoutMs"] / 2000)
        if answer is None or answer["status"] in ("refused", "stale") or answer.get("verdict") == "stale":
            stale.set()
            end.set()
            return
        if answer.get("verdict") == "cancel":
            end.set()
        answered = sent


def work(task, end):
    output = "penstock.output.%s.%s.%s" % (token(task["run"]), token(task["state"]), token(task["id"]))

    def say(seq, text, last):
        chunk = {"seq": seq, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "stream": "stdout", "text": text}
        nats.publish(output, json.dumps({**chunk, "end": True} if last else chunk).encode())

    text = task.get("with", {}).get("text", "")
    say(1, "counting %r\n" % text, False)
    if text == "wait":
        end.wait()
        say(2, "cancelled\n", True)
        return {"outcome": "cancelled", "error": {"code": "cancelled", "message": "the task was cancelled"}}
    say(2, "done\n", True)
    return {"outcome": "succeeded", "outputs": {"letters": sum(c.isalpha() for c in text)}}


def hello(bye=False):
    said = {"worker": WORKER, "kinds": [KIND], "host": socket.gethostname(), "version": "1", "busy": 0, "slots": 1}
    ask("worker.hello", {**said, "bye": True} if bye else said, time.monotonic() + 5)


def main():
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: draining.set())
    last = None
    while not draining.is_set():
        if last is None or time.monotonic() - last >= 10:
            hello()
            last = time.monotonic()
        message = fetch()
        if message and draining.is_set():
            nats.publish(message[0], b"-NAK")
        elif message:
            handle(message)
    hello(bye=True)


main()
