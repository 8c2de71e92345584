// cluster-shared-memory in scripts/bench/locks. Usage: node locks_node.js ROW WORKERS SECONDS, with the package in
// NODE_PATH. Prints the lines that locks_harness.lua prints, with the same keys; beside a message to the master and
// back a look at the clock is nothing, so rate and waits are of one loop.
'use strict';
const cluster = require('cluster');
const memory = require('cluster-shared-memory');
const { lead, meet, now, send } = require('./together_node.js');

const [row, workers, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const KEYS = 64;
const WARM_UP_NS = 200e6;
const NAMES = Array.from({ length: KEYS }, (_, index) => `counter:${String(index).padStart(2, '0')}`);

async function loopFor(keys, ns) {
  const start = now();
  const figures = { ops: 0, start, end: start, wait: 0 };
  do {
    const key = keys[figures.ops % KEYS];
    const asked = now();
    await memory.mutex(key, async () => {
      figures.wait = Math.max(figures.wait, now() - asked);
      await memory.set(key, (await memory.get(key)) + 1);
    });
    figures.ops++;
    figures.end = now();
  } while (figures.end - start < ns);
  return figures;
}

async function work() {
  const step = 2 * cluster.worker.id - 1;
  const keys = NAMES.map((_, index) => NAMES[row === 'one' ? 0 : ((index + 1) * step) % KEYS]);
  await meet();
  const warmUp = await loopFor(keys, Math.min(WARM_UP_NS, seconds * 1e9));
  await meet();
  const figures = await loopFor(keys, seconds * 1e9);
  send({ ...figures, all: warmUp.ops + figures.ops });
}

async function report(ended) {
  const counters = await Promise.all(NAMES.map((name) => memory.get(name)));
  const add = (sum, number) => sum + number;
  if (counters.reduce(add) !== ended.map(({ all }) => all).reduce(add)) throw new Error('increments were lost');
  for (const { ops, start, end, wait } of ended) {
    console.log(`ops=${ops} start_ns=${start} end_ns=${end} wait_ms=${(wait / 1e6).toFixed(3)}`);
  }
}

if (cluster.isPrimary) {
  for (const name of NAMES) memory.set(name, 0);
  lead(workers, report);
} else {
  work();
}
