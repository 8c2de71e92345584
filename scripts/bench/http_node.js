// Node's http on its cluster module with cluster-shared-memory, in scripts/bench/http: the same two pages as http.lua.
// Usage: node http_node.js PORT WORKERS, with the package in NODE_PATH.
'use strict';
const cluster = require('cluster');
const http = require('http');
const memory = require('cluster-shared-memory');

const [port, workers] = process.argv.slice(2).map(Number);

async function page(url) {
  if (url === '/hello') return 'hello\n';
  const visitors = await memory.mutex('visitors', async () => {
    const count = ((await memory.get('visitors')) || 0) + 1;
    await memory.set('visitors', count);
    return count;
  });
  return `you are visitor ${visitors}\n`;
}

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i++) cluster.fork();
} else {
  http
    .createServer(async (request, response) => {
      const text = await page(request.url);
      response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(text) });
      response.end(text);
    })
    .listen(port, '127.0.0.1');
}
