// The plain worker in JavaScript: it calls Graph once for each message, and then completes it. It has
// neither deduplication, retries, a rate limiter, a log, nor metrics. It runs until SIGTERM.
import { ServiceBusClient } from "@azure/service-bus";

const setting = (name) => process.env[`REVOKER_${name}`];
const graph = setting("GRAPH_ENDPOINT");

let token; // {value, until}
async function authorization() {
  if (!token || Date.now() > token.until) {
    const answer = await fetch(setting("GRAPH_TOKEN_URL"), {
      method: "POST",
      body: new URLSearchParams({
        grant_type: "client_credentials",
        client_id: setting("GRAPH_CLIENT_ID"),
        client_secret: setting("GRAPH_CLIENT_SECRET"),
        scope: `${graph}/.default`,
      }),
    });
    if (!answer.ok) throw new Error(`token: ${answer.status}`);
    const { access_token, expires_in } = await answer.json();
    token = { value: access_token, until: Date.now() + (expires_in - 60) * 1000 };
  }
  return `Bearer ${token.value}`;
}

async function processMessage(message) {
  const answer = await fetch(`${graph}/v1.0/users/${message.body.userId}/revokeSignInSessions`, {
    method: "POST",
    headers: { Authorization: await authorization() },
  });
  const { value } = await answer.json();
  if (value !== true) throw new Error(`Graph: ${answer.status}`);
}

const client = new ServiceBusClient(setting("SERVICEBUS_CONNECTION_STRING"));
const receiver = client.createReceiver(setting("SERVICEBUS_QUEUE"));
const subscription = receiver.subscribe(
  { processMessage, processError: async ({ error }) => console.error(error.message) },
  { maxConcurrentCalls: 64 }, // each message is completed when processMessage has returned
);
process.once("SIGTERM", async () => {
  await subscription.close();
  await client.close();
  process.exit(0);
});
