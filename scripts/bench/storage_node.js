// cluster-storage in scripts/bench/storage. Usage: node storage_node.js WORKERS SECONDS PLACE, with the package in
// NODE_PATH. Prints the lines that storage.lua prints. The package's `set` changes the process's own copy and tells the
// others, who apply it later: what counts here is when all have it, so a worker is done when it has seen the last set of
// each of the others.
'use strict';
const cluster = require('cluster');
const { lead, meet, now, send } = require('./together_node.js');

const [workers, seconds, place] = [Number(process.argv[2]), Number(process.argv[3]), process.argv[4]];
// As in storage.lua.
const [KEYS, VALUE_BYTES, TASKS] = [10000, 100, 50];
const WARM_UP_NS = 200e6;
const LATEST_NS = 120e9;
// The first worker is the one that the package's others connect to, and they give up if they come before it.
const AHEAD_MS = 1000;

const names = Array.from({ length: KEYS }, (_, i) => `doc${String(i + 1).padStart(13, '0')}`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const turn = () => new Promise((resolve) => setImmediate(resolve));

// Another value each time: what is equal to what is there is not sent.
let count = 0;
const value = () => String(++count).padStart(VALUE_BYTES, '0');

// As many sets in a turn as storage.lua has tasks; it is over when all have all.
async function loopFor(store, ns, phase) {
  const start = now();
  let [ops, at] = [0, Math.floor(Math.random() * KEYS)];
  do {
    for (let i = 0; i < TASKS; i++) {
      store.set(names[at], value());
      at = (at + 1) % KEYS;
    }
    ops += TASKS;
    await turn();
  } while (now() - start < ns);
  store.set(`${phase}${cluster.worker.id}`, true);
  for (let id = 1; id <= workers; id++) {
    while (!store.has(`${phase}${id}`)) {
      if (now() - start > ns + LATEST_NS) throw new Error('the sets of the others do not arrive');
      await turn();
    }
  }
  return { ops, start, end: now() };
}

async function work() {
  if (cluster.worker.id > 1) await sleep(AHEAD_MS);
  const { Storage } = require('cluster-storage');
  const store = new Storage('bench', { path: place });
  await sleep(2 * AHEAD_MS); // it does not say when it is connected
  await meet();
  await loopFor(store, Math.min(WARM_UP_NS, seconds * 1e9), 'warm');
  await meet();
  // The package keeps handles open; and the master disconnects all a moment after it has said this.
  process.on('message', ({ over }) => over && setTimeout(() => process.exit(0), AHEAD_MS / 5));
  send(await loopFor(store, seconds * 1e9, 'done'));
}

async function report(ended) {
  for (const { ops, start, end } of ended) {
    console.log(`ops=${ops} start_ns=${start} end_ns=${end} wait_ms=0`);
  }
  for (const worker of Object.values(cluster.workers)) worker.send({ over: true });
}

if (cluster.isPrimary) lead(workers, report);
else work();
