// What the programs in JavaScript have in common.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

const steps = [];

// step declares a step. Steps run in order, and the first that fails ends the program.
export function step(name, does) {
  steps.push({ name, does });
}

// runAll runs the steps, prints each, cleans up and exits with 0 or 1.
export async function runAll(title, cleanUp) {
  let failed;
  for (const { name, does } of steps) {
    const began = Date.now();
    try {
      await within(180_000, does());
      console.log(`  ok    ${name} (${Date.now() - began} ms)`);
    } catch (problem) {
      console.error(`  FAIL  ${title}: ${name}: ${problem?.stack ?? JSON.stringify(problem)}`);
      failed = true;
      break;
    }
  }
  await within(60_000, cleanUp()).catch((problem) => {
    console.error(`  FAIL  ${title}: clean up: ${problem}`);
    failed = true;
  });
  process.exit(failed ? 1 : 0);
}

async function within(milliseconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${milliseconds / 1000} s`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// body returns random bytes, and a check that others are the same.
export function body(size) {
  const bytes = randomBytes(size);
  return { bytes, same: (other) => assert.ok(bytes.equals(Buffer.from(other)), `the body of ${size} bytes has changed`) };
}

// unique makes a name that no other run uses.
export const unique = (name) => `${name}-${randomBytes(4).toString("hex")}`;

// setting returns an environment variable that ./run sets.
export function setting(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set: start this program with ./run`);
    process.exit(1);
  }
  return value;
}
