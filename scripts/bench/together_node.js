// What the workers of a measurement on Node have in common, as together.lua does it: they start at one moment, which
// the master says, and send it their figures.
'use strict';
const cluster = require('cluster');

// As in together.lua.
const AHEAD_NS = 50e6;
const SPIN_NS = 2e6;

// Since the machine's start, the same in all processes; exact in a double for a hundred days.
const now = () => Number(process.hrtime.bigint());

// Returns at the same moment in all workers.
async function meet() {
  const moment = await new Promise((resolve) => {
    const take = (message) => {
      if (message.moment === undefined) return;
      process.off('message', take);
      resolve(message.moment);
    };
    process.on('message', take);
    process.send({ here: true });
  });
  await new Promise((resolve) => setTimeout(resolve, (moment - SPIN_NS - now()) / 1e6));
  while (now() < moment);
}

// What a worker sends at its end.
const send = (figures) => process.send({ figures });

// The master's part: starts the workers, and when all have sent their figures calls report(a list of these).
function lead(workers, report) {
  const ended = [];
  let here = 0;
  cluster.on('message', async (_, message) => {
    if (message.here && ++here % workers === 0) {
      const moment = now() + AHEAD_NS;
      for (const worker of Object.values(cluster.workers)) worker.send({ moment });
    }
    if (message.figures && ended.push(message.figures) === workers) {
      await report(ended);
      cluster.disconnect();
    }
  });
  cluster.on('exit', (_, code) => {
    if (code !== 0) throw new Error('a worker failed');
  });
  for (let i = 0; i < workers; i++) cluster.fork();
}

module.exports = { lead, meet, now, send };
