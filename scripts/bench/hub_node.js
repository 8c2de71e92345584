// cluster-hub in scripts/bench/hub: one worker asks the master, then the other worker, one request after the other.
// Usage: node hub_node.js REQUESTS, with the package in NODE_PATH. Prints the line that hub.lua prints. Its workers can
// ask the master only, so that one asks the other worker for them.
'use strict';
const cluster = require('cluster');
const Hub = require('cluster-hub');
const { now } = require('./together_node.js');

const requests = Number(process.argv[2]);
const WARM_UP = 200;
const hub = new Hub();

const sum = (data, sender, reply) => reply(null, data.a + data.b);
const ask = (type, data) =>
  new Promise((resolve, reject) => hub.requestMaster(type, data, (err, result) => (err ? reject(err) : resolve(result))));

async function measure(what, type) {
  const took = [];
  for (let i = 1; i <= WARM_UP + requests; i++) {
    const before = now();
    if ((await ask(type, { a: i, b: 1 })) !== i + 1) throw new Error('a wrong sum');
    if (i > WARM_UP) took.push(now() - before);
  }
  took.sort((a, b) => a - b);
  const at = (part) => (took[Math.floor(requests * part)] / 1e3).toFixed(2);
  return `${what}_p50_us=${at(0.5)} ${what}_p99_us=${at(0.99)}`;
}

if (cluster.isMaster) {
  const workers = [cluster.fork(), cluster.fork()];
  hub.on('sum', sum);
  hub.on('passed on', (data, sender, reply) => hub.requestWorker(workers[1], 'sum', data, reply));
  hub.on('enough', () => workers.forEach((worker) => worker.disconnect()));
  let ready = 0;
  hub.on('ready', () => {
    if (++ready === 2) hub.sendToWorker(workers[0], 'go');
  });
} else {
  hub.on('sum', sum);
  hub.on('go', async () => {
    const line = `${await measure('master', 'sum')} ${await measure('worker', 'passed on')}\n`;
    process.stdout.write(line, () => hub.sendToMaster('enough'));
  });
  hub.sendToMaster('ready');
}
