// cluster-shared-memory in scripts/bench/listen: one worker sets a key now and then, the other one is told. Usage: node
// listen_node.js CHANGES, with the package in NODE_PATH. Prints the line that listen.lua prints.
'use strict';
const cluster = require('cluster');
const memory = require('cluster-shared-memory');
const { now } = require('./together_node.js');

const changes = Number(process.argv[2]);
const WARM_UP = 200;
const PAUSE_MS = 1;
// listen says nothing of when it has begun.
const SETTLE_MS = 200;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function write() {
  await sleep(SETTLE_MS);
  for (let i = 0; i < WARM_UP + changes; i++) {
    await memory.set('key', now());
    await sleep(PAUSE_MS);
  }
  process.disconnect();
}

function listen() {
  const took = [];
  let count = 0;
  memory.listen('key', (sent) => {
    if (++count > WARM_UP) took.push(now() - sent);
    if (took.length < changes) return;
    took.sort((a, b) => a - b);
    const p50 = (took[Math.floor(changes / 2)] / 1e3).toFixed(2);
    const p99 = (took[Math.floor((changes * 99) / 100)] / 1e3).toFixed(2);
    process.stdout.write(`p50_us=${p50} p99_us=${p99}\n`, () => process.disconnect());
  });
}

if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else if (cluster.worker.id === 1) {
  write();
} else {
  listen();
}
