// cluster-shared-memory in scripts/bench/lru. Usage: node lru_node.js WORKERS SECONDS, with the package in NODE_PATH.
// Prints the lines that lru_harness.lua prints, with the same keys, and values and orders of the same kind. A look-up
// is a message to the master and back; beside that a look at the clock and the choice of a key are nothing.
'use strict';
const cluster = require('cluster');
const memory = require('cluster-shared-memory');
const { lead, meet, now, send } = require('./together_node.js');

const [workers, seconds] = [Number(process.argv[2]), Number(process.argv[3])];
// As in lru_harness.lua.
const [KEYS, CAPACITY, VALUE_BYTES] = [100000, 10000, 100];
const [HOT_KEYS, HOT_PART] = [KEYS / 5, 0.8];
const FILL_LOOKUPS = 500000;
const MAX_AGE_MS = 300000;
const WARM_UP_NS = 200e6;

const hex = (number) => number.toString(16).padStart(8, '0');
const keys = Array.from({ length: KEYS }, (_, i) => hex(((i + 1) * 2654435761) % 2 ** 32) + hex(i + 1));

// Another order in each run: in one there are too few look-ups for the part that is answered to be exact.
const below = (count) => Math.floor(Math.random() * count);
const next = () => (Math.random() < HOT_PART ? below(HOT_KEYS) : HOT_KEYS + below(KEYS - HOT_KEYS));

const letters = Array.from({ length: KEYS + VALUE_BYTES }, () => String.fromCharCode(97 + below(26))).join('');
const values = keys.map((_, i) => letters.slice(i, i + VALUE_BYTES));

// Whether it was there.
async function lookUp(index) {
  if ((await memory.getLRU(keys[index])) !== undefined) return true;
  await memory.setLRU(keys[index], values[index]);
  return false;
}

async function loopFor(ns) {
  const start = now();
  const figures = { ops: 0, hits: 0, start, end: start };
  do {
    if (await lookUp(next())) figures.hits++;
    figures.ops++;
    figures.end = now();
  } while (figures.end - start < ns);
  return figures;
}

async function work() {
  await meet();
  await loopFor(Math.min(WARM_UP_NS, seconds * 1e9));
  await meet();
  send(await loopFor(seconds * 1e9));
}

async function report(ended) {
  // The package does not say how many it holds.
  let entries = 0;
  for (const key of keys) if ((await memory.getLRU(key)) !== undefined) entries++;
  for (const { ops, hits, start, end } of ended) {
    console.log(`ops=${ops} start_ns=${start} end_ns=${end} wait_ms=0 hits=${hits} entries=${entries}`);
  }
}

// The master's own look-ups are calls, and fill the cache in no time, in the order in which it is used; from a worker
// it would take a minute.
async function fill() {
  memory.setLRUOptions({ max: CAPACITY, maxAge: MAX_AGE_MS });
  for (let i = 0; i < FILL_LOOKUPS; i++) await lookUp(next());
  lead(workers, report);
}

if (cluster.isPrimary) fill();
else work();
