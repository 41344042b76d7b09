// Azure's client for JavaScript: https://www.npmjs.com/package/@azure/service-bus
import assert from "node:assert/strict";
import { ServiceBusAdministrationClient, ServiceBusClient } from "@azure/service-bus";
import WebSocket from "ws";
import { body, runAll, setting, step, unique } from "./checks.mjs";

const transport = setting("TRANSPORT");
const options = transport === "websocket" ? { webSocketOptions: { webSocket: WebSocket } } : {};
const client = new ServiceBusClient(setting("CONNECTION_STRING"), options);
const admin = new ServiceBusAdministrationClient(setting("ADMIN_CONNECTION_STRING"));
const queue = unique("js-queue");
const sessions = unique("js-sessions");
const topic = unique("js-topic");

const texts = (messages) => messages.map((m) => m.body);
const opened = []; // a rule manager has nothing to close
const open = (link) => (opened.push(link), link);
const sender = (entity) => open(client.createSender(entity));
const receiver = (...args) => open(client.createReceiver(...args));
async function closeAll() {
  await Promise.all(opened.splice(0).map((link) => link.close?.()));
}

// take receives exactly n messages.
async function take(from, n) {
  const all = [];
  while (all.length < n) {
    const some = await from.receiveMessages(n - all.length, { maxWaitTimeInMs: 60_000 });
    assert.ok(some.length > 0, `received ${all.length} of ${n} messages`);
    all.push(...some);
  }
  return all;
}

step("administration: create, read, change, list", async () => {
  const made = await admin.createQueue(queue, { lockDuration: "PT30S", maxDeliveryCount: 3, userMetadata: "a & b" });
  assert.equal(made.lockDuration, "PT30S");
  await admin.createQueue(sessions, { requiresSession: true });
  await admin.createTopic(topic);
  await admin.createSubscription(topic, "all");
  const got = await admin.getQueue(queue);
  assert.equal(got.maxDeliveryCount, 3);
  assert.equal(got.userMetadata, "a & b");
  const changed = await admin.updateQueue({ ...got, maxDeliveryCount: 5 });
  assert.equal(changed.maxDeliveryCount, 5);
  const names = [];
  for await (const one of admin.listQueues()) names.push(one.name);
  assert.ok(names.includes(queue) && names.includes(sessions), `listed ${names}`);
  assert.equal(await admin.queueExists(unique("missing")), false);
  await assert.rejects(admin.createQueue(queue), { code: "MessageEntityAlreadyExistsError" });
  assert.ok((await admin.getNamespaceProperties()).name);
});

for (const [size, label] of [[1 << 20, "1 MB"], [20 << 20, "20 MB"]]) {
  step(`a message of ${label}`, async () => {
    const { bytes, same } = body(size);
    await sender(queue).sendMessages({ body: bytes, messageId: label });
    const r = receiver(queue);
    const [m] = await take(r, 1);
    same(m.body);
    await r.completeMessage(m);
  });
}

step("batches", async () => {
  const s = sender(queue);
  const batch = await s.createMessageBatch();
  let n = 0;
  while (n < 300 && batch.tryAddMessage({ body: `${n}-${"x".repeat(1000)}` })) n++;
  assert.equal(n, 300);
  await s.sendMessages(batch);
  await s.sendMessages(Array.from({ length: 300 }, (_, i) => ({ body: `${300 + i}-${"x".repeat(1000)}` })));
  const got = await take(receiver(queue, { receiveMode: "receiveAndDelete" }), 600);
  assert.deepEqual(texts(got).map((t) => parseInt(t)), Array.from({ length: 600 }, (_, i) => i));
});

step("properties and bodies of every type", async () => {
  const sent = {
    body: { text: "a", list: [1, 2.5, null, true] }, contentType: "application/json", correlationId: "c", subject: "s",
    to: "t", replyTo: "r", replyToSessionId: "rs", timeToLive: 3_600_000,
    applicationProperties: { text: "ż", number: 1, float: 2.5, yes: true, nothing: null },
  };
  await sender(queue).sendMessages(sent);
  const r = receiver(queue);
  const [m] = await take(r, 1);
  for (const name of Object.keys(sent)) assert.deepEqual(m[name], sent[name], name);
  assert.equal(m.deliveryCount, 0);
  await r.completeMessage(m);
});

step("abandon, defer and dead-letter", async () => {
  await sender(queue).sendMessages([{ body: "abandon" }, { body: "defer" }, { body: "dead-letter" }]);
  const r = receiver(queue);
  const [first, second, third] = await take(r, 3);
  await r.abandonMessage(first, { again: "yes" });
  await r.deferMessage(second);
  await r.deadLetterMessage(third, { deadLetterReason: "bad", deadLetterErrorDescription: "very bad" });
  const [again] = await take(r, 1);
  assert.equal(again.body, "abandon");
  assert.equal(again.deliveryCount, 1);
  assert.equal(again.applicationProperties.again, "yes");
  await r.completeMessage(again);
  const [deferred] = await r.receiveDeferredMessages([second.sequenceNumber]);
  assert.equal(deferred.body, "defer");
  await r.completeMessage(deferred);
  const dead = receiver(queue, { subQueueType: "deadLetter" });
  const [letter] = await take(dead, 1);
  assert.equal(letter.deadLetterReason, "bad");
  assert.equal(letter.deadLetterErrorDescription, "very bad");
  await dead.completeMessage(letter);
});

step("schedule, cancel, peek and renew", async () => {
  const s = sender(queue);
  const large = "y".repeat(100_000);
  // A busy machine may stop this program for seconds, so only what nothing precedes is due soon.
  const numbers = await s.scheduleMessages([{ body: "canceled" }, { body: large }], new Date(Date.now() + 3_600_000));
  await s.cancelScheduledMessages(numbers[0]);
  const r = receiver(queue);
  const peeked = await r.peekMessages(10);
  assert.deepEqual(peeked.map((m) => m.state), ["scheduled"]);
  await s.cancelScheduledMessages(numbers[1]);
  await s.scheduleMessages({ body: large }, new Date(Date.now() + 2_000));
  const [m] = await take(r, 1);
  assert.equal(m.body, large);
  const until = await r.renewMessageLock(m);
  assert.ok(until > new Date(), `locked until ${until}`);
  await r.completeMessage(m);
});

step("sessions", async () => {
  await sender(sessions).sendMessages(["x1", "y1", "x2"].map((text) => ({ body: text, sessionId: text[0] })));
  const x = open(await client.acceptSession(sessions, "x"));
  await assert.rejects(client.acceptSession(sessions, "x", { maxAutoLockRenewalDurationInMs: 0 }), { code: "SessionCannotBeLocked" });
  const next = open(await client.acceptNextSession(sessions));
  assert.equal(next.sessionId, "y");
  const got = await take(x, 2);
  assert.deepEqual(texts(got), ["x1", "x2"]);
  assert.equal(await x.getSessionState(), null);
  const { bytes, same } = body(200_000);
  await x.setSessionState(bytes);
  same(await x.getSessionState());
  await x.setSessionState(null);
  assert.ok((await x.renewSessionLock()) > new Date());
  for (const m of got) await x.completeMessage(m);
  await x.close();
  await (open(await client.acceptSession(sessions, "x"))).close(); // it is free at once
});

step("rules", async () => {
  const sql = { sqlExpression: "color = @color AND quantity * 2 > 10", sqlParameters: { "@color": "red" } };
  await admin.createSubscription(topic, "sql", { defaultRuleOptions: {
    name: "sql", filter: sql, action: { sqlExpression: "SET seen = 'yes'" },
  } });
  await admin.createSubscription(topic, "correlated", { defaultRuleOptions: { name: "c", filter: { correlationId: "high" } } });
  const rule = await admin.getRule(topic, "sql", "sql");
  assert.equal(rule.filter.sqlExpression, sql.sqlExpression);
  assert.deepEqual(rule.filter.sqlParameters, sql.sqlParameters);
  assert.equal(rule.action.sqlExpression, "SET seen = 'yes'");
  const manager = open(client.createRuleManager(topic, "all"));
  await manager.createRule("like", { sqlExpression: "sys.Label LIKE 'a%'" });
  await manager.deleteRule("$Default");
  const names = [];
  for await (const one of manager.listRules()) names.push(one.name);
  assert.deepEqual(names, ["like"]);
  await sender(topic).sendMessages([
    { body: "red", applicationProperties: { color: "red", quantity: 6 } },
    { body: "few", applicationProperties: { color: "red", quantity: 5 } },
    { body: "high", correlationId: "high" },
    { body: "label", subject: "apple" },
  ]);
  const one = async (subscription) => {
    const r = receiver(topic, subscription, { receiveMode: "receiveAndDelete" });
    const got = await take(r, 1);
    got.push(...(await r.receiveMessages(1, { maxWaitTimeInMs: 200 })));
    return got;
  };
  const selected = await one("sql");
  assert.deepEqual(texts(selected), ["red"]);
  assert.equal(selected[0].applicationProperties.seen, "yes");
  assert.deepEqual(texts(await one("correlated")), ["high"]);
  assert.deepEqual(texts(await one("all")), ["label"]);
});

step("a subscription to a stream of messages", async () => {
  await sender(queue).sendMessages(Array.from({ length: 100 }, (_, i) => ({ body: i })));
  const seen = [];
  await new Promise((resolve, reject) => {
    receiver(queue).subscribe({
      processMessage: async (m) => { if (seen.push(m.body) === 100) resolve(); },
      processError: async ({ error }) => reject(error),
    }, { maxConcurrentCalls: 10 });
  });
  assert.equal(new Set(seen).size, 100);
  await closeAll();
});

step("counts", async () => {
  await closeAll();
  const s = sender(queue);
  await s.sendMessages([{ body: "1" }, { body: "2" }]);
  await s.scheduleMessages({ body: "later" }, new Date(Date.now() + 3_600_000));
  const counts = await admin.getQueueRuntimeProperties(queue);
  assert.deepEqual([counts.activeMessageCount, counts.scheduledMessageCount, counts.totalMessageCount], [2, 1, 3]);
  assert.ok(counts.sizeInBytes > 0 && counts.createdAt instanceof Date, JSON.stringify(counts));
  const of = await admin.getSubscriptionRuntimeProperties(topic, "all");
  assert.equal(of.activeMessageCount, 0);
});

step("errors for what is missing", async () => {
  await assert.rejects(sender(unique("missing")).sendMessages({ body: "x" }), { code: "MessagingEntityNotFound" });
});

await runAll(`@azure/service-bus over ${transport}`, async () => {
  await client.close();
  for (const name of [queue, sessions]) await admin.deleteQueue(name);
  await admin.deleteTopic(topic);
});
