#!/usr/bin/python3
"""Qpid Proton, the AMQP client of C, C++, Go, Python and Ruby: Debian's python3-qpid-proton."""

import os
import sys
import time

from proton import Message, SSLDomain, symbol, timestamp
from proton.reactor import AtLeastOnce, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

TRANSPORT = os.environ["TRANSPORT"]
ADDRESS = os.environ["ADDRESS"]
QUEUE = "proton"
TIMEOUT = 120


class SecondSettle(LinkOption):
    """Peek-lock: the broker settles after the receiver has told the outcome."""

    def apply(self, link):
        link.rcv_settle_mode = link.RCV_SECOND


def connect():
    options = {"user": "RootManageSharedAccessKey", "password": "SAS_KEY_VALUE", "timeout": TIMEOUT}
    if TRANSPORT == "tls":
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(os.environ["CA_FILE"])
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
        return BlockingConnection("amqps://" + ADDRESS, ssl_domain=domain, allowed_mechs="PLAIN", **options)
    return BlockingConnection("amqp://" + ADDRESS, allow_insecure_mechs=True, allowed_mechs="PLAIN", **options)


def receive(connection, source=QUEUE, options=None):
    receiver = connection.create_receiver(source, credit=1, options=options)
    message = receiver.receive(timeout=TIMEOUT)
    receiver.accept()
    receiver.close()
    return message


def send(connection, message, target=QUEUE):
    sender = connection.create_sender(target, options=AtLeastOnce())
    sender.send(message, timeout=TIMEOUT)
    sender.close()


def large(size):
    def step(connection):
        body = os.urandom(size)
        send(connection, Message(body=body, inferred=True))
        got = receive(connection).body
        assert bytes(got) == body, f"the body of {size} bytes has changed"

    return step


def many(connection):
    sender = connection.create_sender(QUEUE)
    for i in range(300):
        sender.send(Message(id=str(i), body=i, properties={"n": i}), timeout=TIMEOUT)
    sender.close()
    receiver = connection.create_receiver(QUEUE, credit=100)
    for i in range(300):
        message = receiver.receive(timeout=TIMEOUT)
        assert (message.id, message.body, message.properties["n"]) == (str(i), i, i), message
        receiver.accept()
    receiver.close()


def scheduled(connection):
    due = time.time() + 1.5
    send(connection, Message(body="later", annotations={symbol("x-opt-scheduled-enqueue-time"): timestamp(int(due * 1000))}))
    assert receive(connection).body == "later"
    early = due - time.time()
    assert early < 0.2, f"it came {early} s early"


def session(connection):
    send(connection, Message(body="1", group_id="x"), "proton-sessions")
    message = receive(connection, "proton-sessions", Filter({symbol("com.microsoft:session-filter"): "x"}))
    assert message.group_id == "x", message


def dead_letter(connection):
    send(connection, Message(body="bad"))
    receiver = connection.create_receiver(QUEUE, credit=1, options=SecondSettle())
    receiver.receive(timeout=TIMEOUT)
    receiver.reject()
    receiver.close()
    assert receive(connection, QUEUE + "/$DeadLetterQueue").body == "bad"


def released(connection):
    send(connection, Message(body="again"))
    receiver = connection.create_receiver(QUEUE, credit=1)
    receiver.receive(timeout=TIMEOUT)
    receiver.release(delivered=False)
    receiver.close()
    again = receive(connection)
    assert (again.body, again.delivery_count) == ("again", 0), again


def missing(connection):
    try:
        connection.create_sender("missing")
    except LinkDetached as refusal:
        assert "amqp:not-found" in str(refusal), refusal
    else:
        raise AssertionError("a link to a missing queue was accepted")
    send(connection, Message(body="after it"))  # the connection lives on
    assert receive(connection).body == "after it"


STEPS = {
    "a message of 100 bytes": large(100),
    "a message of 1 MB": large(1 << 20),
    "a message of 20 MB": large(20 << 20),
    "300 messages": many,
    "a scheduled message": scheduled,
    "a session": session,
    "a dead letter": dead_letter,
    "a released message": released,
    "a queue that is missing, on a connection that lives on": missing,
}


def main():
    connection = connect()
    for name, step in STEPS.items():
        began = time.monotonic()
        try:
            step(connection)
        except Exception as problem:
            print(f"  FAIL  proton over {TRANSPORT}: {name}: {type(problem).__name__}: {problem}", file=sys.stderr)
            return 1
        print(f"  ok    {name} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
