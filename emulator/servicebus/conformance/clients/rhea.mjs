// rhea, a client for AMQP 1.0 that knows nothing of Service Bus: https://www.npmjs.com/package/rhea
import assert from "node:assert/strict";
import rhea from "rhea";
import WebSocket from "ws";
import { body, runAll, setting, step } from "./checks.mjs";

const transport = setting("TRANSPORT");
const [host, port] = setting("ADDRESS").split(":");
const queue = "rhea";
const container = rhea.create_container();
const login = { username: "RootManageSharedAccessKey", password: "SAS_KEY_VALUE", reconnect: false };
const connection = transport === "websocket"
  ? container.connect({
    ...login,
    connection_details: container.websocket_connect(WebSocket)(`wss://${host}:${port}/$servicebus/websocket`, ["AMQPWSB10"], {}),
  })
  : container.connect({ ...login, host, port: Number(port), transport: transport === "tls" ? "tls" : "tcp", servername: host });
for (const name of ["disconnected", "connection_error"]) connection.on(name, (c) => console.error(`  ${name}: ${c.error ?? connection.error}`));

// event waits for one of these events, and fails if another one comes first.
function event(emitter, wanted, unwanted = []) {
  return new Promise((resolve, reject) => {
    emitter.once(wanted, resolve);
    for (const name of unwanted) {
      emitter.once(name, (c) => reject(new Error(`${name} in place of ${wanted}: ${JSON.stringify(c.sender?.error ?? c.receiver?.error ?? c.delivery?.remote_state ?? {})}`)));
    }
  });
}

const sender = async (address, options = {}) => {
  const link = connection.open_sender({ target: address, ...options });
  await event(link, "sendable", ["sender_error"]);
  return link;
};
const send = async (link, message, format) => {
  link.send(message, undefined, format);
  await event(link, "accepted", ["rejected", "released", "modified", "sender_error"]);
};
const receiver = (options) => connection.open_receiver({ credit_window: 0, autoaccept: false, ...options });
const receive = async (link) => {
  const arrived = event(link, "message", ["receiver_error"]);
  link.add_credit(1);
  return arrived;
};

for (const [size, label] of [[100, "100 bytes"], [1 << 20, "1 MB"], [20 << 20, "20 MB"]]) {
  step(`a message of ${label}`, async () => {
    const { bytes, same } = body(size);
    const s = await sender(queue);
    await send(s, { message_id: label, body: rhea.message.data_section(bytes) });
    const r = receiver({ source: queue, rcv_settle_mode: 1 });
    const { message, delivery } = await receive(r);
    assert.equal(message.message_id, label);
    same(message.body.content);
    delivery.accept();
    s.close();
    r.close();
  });
}

step("a batch", async () => {
  const s = await sender(queue);
  const parts = ["a", "b", "c"].map((text) => rhea.message.encode({ body: rhea.message.data_section(Buffer.from(text)) }));
  await send(s, rhea.message.encode({ body: rhea.message.data_sections(parts) }), 0x80013700);
  const r = receiver({ source: queue });
  for (const want of ["a", "b", "c"]) {
    const { message, delivery } = await receive(r);
    assert.equal(message.body.content.toString(), want);
    delivery.accept();
  }
  s.close();
  r.close();
});

step("an absolute address, and a footer", async () => {
  const s = await sender(`amqps://${host}:${port}/${queue}`);
  await send(s, { body: "text", footer: { sum: "12" } });
  const r = receiver({ source: queue });
  const { message, delivery } = await receive(r);
  assert.equal(message.body, "text");
  assert.equal(message.footer.sum, "12");
  delivery.accept();
  s.close();
  r.close();
});

step("a scheduled message", async () => {
  const s = await sender(queue);
  const due = Date.now() + 1_500;
  await send(s, { body: "later", message_annotations: { "x-opt-scheduled-enqueue-time": rhea.types.wrap_timestamp(due) } });
  const r = receiver({ source: queue });
  const { delivery } = await receive(r);
  assert.ok(Date.now() > due - 200, `it came ${due - Date.now()} ms early`);
  delivery.accept();
  s.close();
  r.close();
});

step("a session", async () => {
  const s = await sender("rhea-sessions");
  await send(s, { body: "1", group_id: "x" });
  const r = receiver({ source: { address: "rhea-sessions", filter: { "com.microsoft:session-filter": "x" } } });
  const { message, delivery } = await receive(r);
  assert.equal(message.group_id, "x");
  delivery.accept();
  s.close();
  r.close();
});

step("a dead letter", async () => {
  const s = await sender(queue);
  await send(s, { body: "bad" });
  const r = receiver({ source: queue });
  const { delivery } = await receive(r);
  delivery.reject({ condition: "com.microsoft:dead-letter", info: { DeadLetterReason: "bad" } });
  const dead = receiver({ source: `${queue}/$DeadLetterQueue` });
  const letter = await receive(dead);
  assert.equal(letter.message.application_properties.DeadLetterReason, "bad");
  letter.delivery.accept();
  for (const link of [s, r, dead]) link.close();
});

step("a queue that is missing, on a connection that lives on", async () => {
  const link = connection.open_sender("missing");
  const { sender: refused } = await event(link, "sender_error");
  assert.equal(refused.error.condition, "amqp:not-found");
  await sender(queue);
});

await runAll(`rhea over ${transport}`, async () => {
  connection.removeAllListeners("disconnected");
  connection.close();
});
